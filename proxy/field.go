package proxy

import (
	"bytes"
	"encoding/binary"
)

// fieldKind is what a field name means to a proxy.
type fieldKind uint8

const (
	plainField      fieldKind = iota
	hostField                 // the target's authority
	lengthField               // Content-Length
	codingField               // Transfer-Encoding
	connectionField           // Connection: names more fields of this hop
	hopField                  // other fields that end at this hop (RFC 9110, section 7.6.1)
	teField                   // TE: only "trailers" goes on
	trailerField              // Trailer: names the fields after the body
	upgradeField              // Upgrade
	expectField               // Expect
	cookieField               // Cookie
	setCookieField            // Set-Cookie
	dateField                 // Date
	contentField              // other Content-* fields
	authField                 // Authorization
	altSvcField               // Alt-Svc: a backend would speak for our origin
	reservedField             // ours to set: X-Real-IP, Forwarded, X-Gateway-*, X-Route-Domain
	forwardedFor              // ours, but a trusted proxy may have set it before
	forwardedHost             // likewise
	forwardedProto            // likewise
	forwardedPort             // likewise
)

// longestKnown is the length of the longest name below, x-forwarded-proto.
const longestKnown = 17

// classify reads a field name, in any case. "_" is read as "-" where the name
// would then be reserved, because many backends fold the two together.
func classify(name []byte) fieldKind {
	if !mayMatter(name) {
		return plainField
	}
	var low [longestKnown]byte
	n := min(len(name), longestKnown)
	folded := false
	for i := range n {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		} else if c == '_' {
			c, folded = '-', true
		}
		low[i] = c
	}
	kind := classifyLower(low[:n], len(name))
	if !folded || kind == plainField {
		return kind
	}
	if kind >= reservedField {
		return reservedField // a value that nobody who is trusted sends
	}
	return plainField
}

// mayMatter tells most names by first letter and length from those that matter:
// it is called for every field of every message.
func mayMatter(name []byte) bool {
	n := len(name)
	if n == 0 {
		return false
	}
	switch name[0] | 0x20 {
	case 'c', 'p', 'x':
		return true
	case 'a':
		return n == len("authorization") || n == len("alt-svc")
	case 'd':
		return n == len("date")
	case 'e':
		return n == len("expect")
	case 'f':
		return n == len("forwarded")
	case 'h':
		return n == len("host") || n == len("http2-settings")
	case 'k', 's':
		return n == len("keep-alive") // as long as set-cookie
	case 't':
		return n == len("te") || n == len("trailer") || n == len("transfer-encoding")
	case 'u':
		return n == len("upgrade")
	}
	return false
}

// classifyLower takes the first bytes of a name in lower case, and its full length.
func classifyLower(low []byte, length int) fieldKind {
	if length > len(low) {
		return classifyPrefix(low)
	}
	switch string(low) {
	case "host":
		return hostField
	case "content-length":
		return lengthField
	case "transfer-encoding":
		return codingField
	case "connection":
		return connectionField
	case "keep-alive", "http2-settings":
		return hopField
	case "te":
		return teField
	case "trailer":
		return trailerField
	case "upgrade":
		return upgradeField
	case "expect":
		return expectField
	case "cookie":
		return cookieField
	case "set-cookie":
		return setCookieField
	case "date":
		return dateField
	case "authorization":
		return authField
	case "alt-svc":
		return altSvcField
	case "forwarded", "x-real-ip", "x-route-domain":
		return reservedField
	case "x-forwarded-for":
		return forwardedFor
	case "x-forwarded-host":
		return forwardedHost
	case "x-forwarded-proto":
		return forwardedProto
	case "x-forwarded-port":
		return forwardedPort
	}
	return classifyPrefix(low)
}

func classifyPrefix(low []byte) fieldKind {
	switch {
	case hasPrefix(low, "x-gateway-"):
		return reservedField
	case hasPrefix(low, "proxy-"):
		return hopField
	case hasPrefix(low, "content-"):
		return contentField
	}
	return plainField
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// protected reports whether Connection has no power over fields of this kind.
func (k fieldKind) protected() bool {
	switch k {
	case hostField, cookieField, lengthField, contentField, authField, setCookieField, dateField:
		return true
	}
	return k >= reservedField
}

// mayTrail reports whether a field may stand behind a body: nothing that frames,
// routes, authenticates, controls or is ours (RFC 9110, section 6.5.1).
func mayTrail(name []byte) bool {
	if classify(name) != plainField {
		return false
	}
	for _, head := range [...]string{"location", "www-authenticate", "range", "max-forwards"} {
		if equalFold(name, head) {
			return false
		}
	}
	for _, prefix := range [...]string{"x-forwarded", "x-real-ip"} {
		if len(name) >= len(prefix) && equalFold(name[:len(prefix)], prefix) {
			return false
		}
	}
	return true
}

// tokenBytes are the bytes of an RFC 9110 token (section 5.6.2).
var tokenBytes = byteSet("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

func byteSet(members string) (set [256]bool) {
	for _, c := range []byte(members) {
		set[c] = true
	}
	return set
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(b) > 0
}

// cutField takes one field line, without its CRLF, apart. It is strict where
// parsers disagree (RFC 9112, section 5): a token right before the colon, no
// folding, no control byte but a tab in the value.
func cutField(line []byte) (name, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 || !isToken(line[:colon]) {
		return nil, nil, false
	}
	value = trimSpace(line[colon+1:])
	return line[:colon], value, isClean(value)
}

// isClean reports whether b has no control byte but tabs. It looks at eight bytes
// at once: each test sets the top bit of a byte below 0x20, or equal to 0x7f.
func isClean(b []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&tops != 0 && !cleanBytes(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return cleanBytes(b)
}

func cleanBytes(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// trimSpace removes optional white space: spaces and tabs alone.
func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold compares with a text in lower case, ASCII letters alone.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// cutList returns the first element of a comma-separated list, and the rest.
func cutList(list []byte) (first, rest []byte) {
	first, rest, _ = bytes.Cut(list, comma)
	return trimSpace(first), rest
}

var comma = []byte{','}

// listHas reports whether list has the element, which is in lower case.
func listHas(list []byte, lower string) bool {
	for len(list) > 0 {
		var e []byte
		if e, list = cutList(list); equalFold(e, lower) {
			return true
		}
	}
	return false
}
