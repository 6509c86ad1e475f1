package proxy

import (
	"bytes"

	"gatecontrol/model"
)

// requestHead is what a request head says of framing and routing. The slices
// point into the head and live as long as it does.
type requestHead struct {
	method  []byte
	target  []byte // in origin form, or "*"; byte for byte as received
	length  int64  // of the body; unknownLength if it is chunked
	http10  bool
	expects bool // the client waits for 100 (Continue) before it sends the body
}

// unknownLength is the length of a body that ends by its own framing.
const unknownLength = -1

// headScan finds the end of a head that arrives in pieces.
type headScan struct {
	pos   int // bytes looked at
	line  int // where the current line starts
	lines int // complete lines
}

// next looks at b, the head as far as it is there. It returns the length of a
// complete head with its empty line, else 0; a status other than 0 refuses it.
// Every line must end in CRLF: what takes a lone LF for a line end and what
// does not would see different requests in the same bytes.
func (s *headScan) next(b []byte) (length, status int) {
	for {
		i := bytes.IndexByte(b[s.pos:], '\n')
		if i < 0 {
			s.pos = len(b)
			return 0, s.excess(len(b))
		}
		end := s.pos + i
		if end == s.line || b[end-1] != '\r' {
			return 0, 400
		}
		empty := end-1 == s.line
		s.pos, s.line = end+1, end+1
		s.lines++
		if status := s.excess(end); status != 0 {
			return 0, status
		}
		if s.lines == 1 {
			if end-1 > maxRequestLine {
				return 0, 414
			}
		} else if empty {
			return s.pos, 0
		}
	}
}

func (s *headScan) excess(size int) int {
	switch {
	case s.lines == 0 && size > maxRequestLine+1:
		return 414
	case s.lines > maxFields+2, size > maxRequestLine+maxFieldBlock:
		return 431
	}
	return 0
}

// parse reads a complete head. A status other than 0 refuses it: framing or
// routing would be in doubt, or it asks for what a proxy must not do.
func (h *requestHead) parse(b []byte) (status int) {
	*h = requestHead{}
	line, rest := cutLine(b)
	if status := h.requestLine(line); status != 0 {
		return status
	}
	blockSize := len(rest)
	var host []byte
	var hosts, lengths, codings, fields int
	for {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			break
		}
		fields++
		name, value, ok := cutField(line)
		if !ok {
			return 400
		}
		switch classify(name) {
		case hostField:
			host = value
			hosts++
		case lengthField:
			lengths++
			if h.length, ok = parseLength(value); !ok {
				return 400
			}
		case codingField:
			codings++
			if !equalFold(value, "chunked") {
				return 400
			}
		case expectField:
			if h.http10 {
				break // RFC 9110, section 10.1.1
			}
			if !equalFold(value, "100-continue") {
				return 417
			}
			h.expects = true
		}
	}
	switch {
	case fields > maxFields || blockSize > maxFieldBlock:
		return 431
	case hosts > 1 || hosts == 0 && !h.http10:
		return 400
	case lengths+codings > 1 || codings > 0 && h.http10:
		return 400
	}
	if codings > 0 {
		h.length = unknownLength
	}
	h.expects = h.expects && h.length != 0
	return h.checkTarget(host, hosts > 0)
}

// cutLine takes one line off b, which ends in CRLF.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 {
		return nil, nil
	}
	return b[:i-1], b[i+1:]
}

func (h *requestHead) requestLine(line []byte) int {
	method, rest, ok := bytes.Cut(line, space)
	if !ok || !isToken(method) {
		return 400
	}
	target, version, ok := bytes.Cut(rest, space)
	if !ok || len(target) == 0 {
		return 400
	}
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.http10 = true
	default:
		if len(version) == 8 && string(version[:5]) == "HTTP/" && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]) {
			return 505
		}
		return 400
	}
	if string(method) == "CONNECT" || string(method) == "TRACE" {
		return 405
	}
	h.method, h.target = method, target
	return 0
}

var space = []byte{' '}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parseLength reads 1*DIGIT that fits 63 bits.
func parseLength(b []byte) (n int64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if !isDigit(c) || n > (1<<63-1-int64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// checkTarget checks Host and target (RFC 9112, section 3.2), and brings an
// absolute form into origin form.
func (h *requestHead) checkTarget(host []byte, hasHost bool) int {
	var a, b [model.MaxHostname]byte
	name := b[:0]
	if hasHost {
		var ok bool
		if name, ok = model.AppendHost(b[:0], host); !ok {
			return 400
		}
	}
	switch {
	case h.target[0] == '/':
	case string(h.target) == "*":
		if string(h.method) != "OPTIONS" {
			return 400
		}
		return 0
	default:
		authority, rest, ok := cutScheme(h.target)
		if !ok {
			return 400
		}
		got, ok := model.AppendHost(a[:0], authority)
		if !ok || hasHost && !bytes.Equal(got, name) {
			return 400
		}
		if h.target = rest; len(rest) == 0 || rest[0] != '/' {
			if len(rest) == 0 && string(h.method) == "OPTIONS" {
				h.target = []byte{'*'} // RFC 9112, section 3.2.4
				return 0
			}
			h.target = append([]byte{'/'}, rest...)
		}
	}
	if !validTarget(h.target) {
		return 400
	}
	return 0
}

// cutScheme splits an absolute-form target behind its authority.
func cutScheme(target []byte) (authority, rest []byte, ok bool) {
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(target) >= len(scheme) && equalFold(target[:len(scheme)], scheme) {
			authority = target[len(scheme):]
			if i := bytes.IndexAny(authority, "/?"); i >= 0 {
				authority, rest = authority[:i], authority[i:]
			}
			return authority, rest, true
		}
	}
	return nil, nil, false
}

// validTarget refuses what backends read in different ways. Browsers send
// backslashes and lone percent signs in queries, so those pass there.
func validTarget(target []byte) bool {
	inPath := true
	for i := 0; i < len(target); i++ {
		c := target[i]
		if targetBytes[c] {
			continue
		}
		switch {
		case c == '?':
			inPath = false
		case c <= ' ' || c == 0x7f || c == '#':
			return false
		case !inPath || c >= 0x80:
		case c == '\\':
			return false
		case c == '%':
			if i+2 >= len(target) || !isHex(target[i+1]) || !isHex(target[i+2]) || target[i+1] == '0' && target[i+2] == '0' {
				return false
			}
		}
	}
	return true
}

// targetBytes need no second look anywhere in a target.
var targetBytes = byteSet("/!$&'()*+,-.:;=@_~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

func isHex(c byte) bool { return unhex(c) >= 0 }

func unhex(c byte) int64 {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0')
	case 'a' <= c && c <= 'f':
		return int64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int64(c-'A') + 10
	}
	return -1
}
