package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"slices"

	"gatecontrol/model"
)

// malformed is the status of a head that is no request at all. It is answered
// with a stream error (RFC 9113, section 8.1.1; RFC 9114, section 4.1.2).
const malformed = -1

// streamHead builds the head of a request from the field section of a stream,
// under the checks that requestHead makes for HTTP/1.1.
type streamHead struct {
	length   int64 // of the body; unknownLength if only its end tells
	expects  bool  // the client waits for 100 (Continue)
	protocol bool  // an extended CONNECT for a WebSocket
	path     []byte

	method, authority, host []byte
	lines                   []byte // the fields as lines of HTTP/1.1
	cookie                  int    // where the value of the one Cookie line ends; 0 if there is none
	seen                    pseudo
	hasHost, hasLength      bool
	fields, size            int
	status                  int // the first thing that was wrong
	key                     [24]byte
}

// pseudo is a set of pseudo fields.
type pseudo uint8

const (
	methodPseudo pseudo = 1 << iota
	schemePseudo
	authorityPseudo
	pathPseudo
	protocolPseudo
)

// reset prepares for the next head and keeps the buffers, unless they have grown.
func (h *streamHead) reset() {
	lines := h.lines[:0]
	if cap(lines) > maxInlineBody {
		lines = nil
	}
	*h = streamHead{lines: lines, method: h.method[:0], authority: h.authority[:0], host: h.host[:0], path: h.path[:0]}
}

func (h *streamHead) refuse(status int) {
	if h.status == 0 {
		h.status = status
	}
}

// add takes the next field of the section. What is wrong is told by finish: the
// section has to be read to its end in any case, for the tables of its decoder.
func (h *streamHead) add(name, value string) {
	// The size of a list is defined with 32 bytes of overhead for each field (RFC
	// 9113, section 6.5.2).
	if h.size += len(name) + len(value) + 32; h.size > maxFieldBlock {
		h.refuse(431)
	}
	if h.status != 0 {
		return
	}
	if len(name) > 0 && name[0] == ':' {
		h.addPseudo(name, value)
		return
	}
	start := len(h.lines)
	h.lines = append(append(append(h.lines, name...), ": "...), value...)
	line := h.lines[start:]
	n, v := line[:len(name)], line[len(name)+2:]
	if !lowerToken(n) || !exact(v) {
		h.refuse(malformed)
		return
	}
	h.fields++
	switch kind := classify(n); kind {
	case connectionField, codingField, upgradeField:
		h.refuse(malformed)
	case hopField:
		if equalFold(n, "keep-alive") || equalFold(n, "proxy-connection") {
			h.refuse(malformed)
		}
	case teField:
		if !equalFold(v, "trailers") {
			h.refuse(malformed)
		}
	case hostField:
		if h.hasHost {
			h.refuse(malformed)
		}
		h.hasHost = true
		h.host = append(h.host, v...)
		h.lines = h.lines[:start] // comes first
		return
	case lengthField:
		var ok bool
		if h.length, ok = parseLength(v); !ok || h.hasLength {
			h.refuse(malformed)
		}
		h.hasLength = true
	case expectField:
		if !equalFold(v, "100-continue") {
			h.refuse(417)
		}
		h.expects = true
	case cookieField:
		if h.cookie > 0 { // one crumb more (RFC 9113, section 8.2.3)
			crumb := append([]byte("; "), value...)
			h.lines = slices.Insert(h.lines[:start], h.cookie, crumb...)
			h.cookie += len(crumb)
			h.fields--
			return
		}
		h.cookie = len(h.lines)
	default:
		if equalFold(n, "sec-websocket-key") && h.protocol {
			h.lines = h.lines[:start] // ours takes its place
			return
		}
	}
	h.lines = append(h.lines, '\r', '\n')
}

func (h *streamHead) addPseudo(name, value string) {
	var p pseudo
	switch name {
	case ":method":
		p = methodPseudo
		h.method = append(h.method, value...)
		if !isToken(h.method) {
			h.refuse(malformed)
		}
	case ":scheme":
		p = schemePseudo
		if value != "https" && value != "http" {
			h.refuse(400)
		}
	case ":authority":
		p = authorityPseudo
		h.authority = append(h.authority, value...)
	case ":path":
		p = pathPseudo
		h.path = append(h.path, value...)
		if len(value) > maxRequestLine {
			h.refuse(414)
		}
	case ":protocol":
		p = protocolPseudo
		h.protocol = true
		if value != "websocket" {
			h.refuse(501) // RFC 9220, section 3
		}
	}
	if p == 0 || h.seen&p != 0 || h.fields > 0 || h.hasHost {
		h.status = malformed
	}
	h.seen |= p
}

// finish checks the head as a whole; ended tells that no body follows. It returns
// 0, malformed, or the status of a refusal.
func (h *streamHead) finish(ended bool) (status int) {
	connect := string(h.method) == "CONNECT"
	const all = methodPseudo | schemePseudo | pathPseudo
	switch {
	case h.status != 0:
		return h.status
	case h.protocol && (!connect || h.hasLength):
		// What follows a CONNECT is no content (RFC 9110, section 9.3.6): a backend
		// that is told of some, and does not upgrade, would take it from the next
		// request on its connection.
		return malformed
	case connect && !h.protocol:
		return 405
	case h.seen&all != all || len(h.path) == 0:
		return malformed
	case string(h.method) == "TRACE":
		return 405
	}
	if ended {
		if h.length > 0 {
			return malformed
		}
		if !h.hasLength && takesBody(h.method) {
			// Some backends refuse these without a length.
			h.lines = append(h.lines, "content-length: 0\r\n"...)
			h.fields++
		}
	} else if !h.hasLength {
		h.length = unknownLength
	}
	h.expects = h.expects && h.length != 0
	if h.protocol {
		h.fields += 3 // those of the upgrade
	}
	if h.fields+1 > maxFields { // the one is Host
		return 431
	}
	return h.checkTarget()
}

// takesBody reports whether a request with this method has content by its meaning
// (RFC 9110, section 8.6).
func takesBody(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

// checkTarget checks authority and path as HTTP/1.1 has them checked.
func (h *streamHead) checkTarget() int {
	if h.seen&authorityPseudo == 0 {
		h.authority = append(h.authority, h.host...)
	}
	var a, b [model.MaxHostname]byte
	name, ok := model.AppendHost(a[:0], h.authority)
	if !ok {
		return 400
	}
	if h.hasHost {
		host, ok := model.AppendHost(b[:0], h.host)
		if !ok || !bytes.Equal(host, name) || model.HostPort(h.host) != model.HostPort(h.authority) {
			return 400
		}
	}
	if string(h.path) == "*" {
		if string(h.method) != "OPTIONS" {
			return 400
		}
		return 0
	}
	if h.path[0] != '/' || !validTarget(h.path) {
		return 400
	}
	return 0
}

// appendText writes the head as HTTP/1.1 has it, for a parser that shall see
// neither target nor body.
func (h *streamHead) appendText(b []byte) []byte {
	if h.protocol {
		b = append(b, "GET"...) // RFC 6455, section 4.1
	} else {
		b = append(b, h.method...)
	}
	b = append(append(b, " / HTTP/1.1\r\nHost: "...), h.authority...)
	b = append(b, '\r', '\n')
	if h.protocol {
		var key [16]byte
		_, _ = rand.Read(key[:])
		base64.StdEncoding.Encode(h.key[:], key[:])
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "...)
		b = append(append(b, h.key[:]...), '\r', '\n')
	}
	b = append(b, h.lines...)
	return append(b, '\r', '\n')
}

// accepts reports whether value proves that the backend has read the key (RFC
// 6455, section 4.2.2).
func (h *streamHead) accepts(value []byte) bool {
	sum := sha1.Sum(append(h.key[:], "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return string(value) == base64.StdEncoding.EncodeToString(sum[:])
}

// lowerToken reports whether b is a field name as streams have it (RFC 9113,
// section 8.2.1).
func lowerToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return len(b) > 0
}

// exact reports whether a field value has no control bytes but tabs, and no space
// around it: HTTP/1.1 would take that off, and both ways would see different
// requests.
func exact(v []byte) bool { return isClean(v) && len(trimSpace(v)) == len(v) }

// streamTrailer builds the lines of a trailer section.
type streamTrailer struct {
	lines     []byte
	size      int
	malformed bool
}

// add takes the next field. Those that may not stand behind a body are left out.
func (t *streamTrailer) add(name, value string) {
	if t.size += len(name) + len(value) + 32; t.size > maxTrailerSize || len(name) == 0 || name[0] == ':' {
		t.malformed = true
	}
	if t.malformed {
		return
	}
	start := len(t.lines)
	t.lines = append(append(append(t.lines, name...), ": "...), value...)
	n, v := t.lines[start:start+len(name)], t.lines[start+len(name)+2:]
	if !lowerToken(n) || !exact(v) {
		t.malformed = true
		return
	}
	if !mayTrail(n) {
		t.lines = t.lines[:start]
		return
	}
	t.lines = append(t.lines, '\r', '\n')
}
