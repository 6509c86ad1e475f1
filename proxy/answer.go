package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// errAnswer says that a backend does not speak HTTP/1 as it should. Its
// connection is closed: nobody knows where its next answer begins.
var errAnswer = errors.New("backend sent an invalid answer")

// answer is the head of a backend's answer. The slices point into the head.
type answer struct {
	status     int
	reason     []byte
	fields     []field
	connection []byte
	upgrade    []byte
	framing    framing
	length     int64
	keepAlive  bool
	dated      bool
	vary       bool   // the coding depends on the client
	coding     coding // that the client gets
}

// answerEnd returns the length of the head at the start of b, 0 if it is not
// complete. Small devices end lines with a lone LF, and only they have to agree
// with us on what that means (RFC 9112, section 2.2).
func answerEnd(b []byte, from int) int {
	for i := from; i < len(b); {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0
		}
		i += j + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
	return 0
}

// parse reads a complete head. head tells that the request was HEAD.
func (a *answer) parse(b []byte, head bool) error {
	*a = answer{fields: a.fields[:0], length: -1}
	line, rest := cutAnswerLine(b)
	if !a.statusLine(line) {
		return errAnswer
	}
	http10 := line[7] == '0'
	lengths, codings := 0, 0
	for {
		line, rest = cutAnswerLine(rest)
		if len(line) == 0 {
			break
		}
		name, value, ok := cutField(line)
		if !ok {
			return errAnswer
		}
		f := field{name, value, classify(name)}
		switch f.kind {
		case lengthField:
			lengths++
			if a.length, ok = parseLength(value); !ok {
				return errAnswer
			}
		case codingField:
			codings++
			if http10 || !equalFold(value, "chunked") {
				return errAnswer
			}
		case connectionField:
			a.connection = joinList(a.connection, value)
		case upgradeField:
			a.upgrade = value
		case dateField:
			a.dated = true
		}
		a.fields = append(a.fields, f)
	}
	if lengths+codings > 1 || len(a.fields) > 2*maxFields {
		return errAnswer
	}
	a.keepAlive = !http10 && !listHas(a.connection, "close") || http10 && listHas(a.connection, "keep-alive")
	switch {
	case head || a.status < 200 || a.status == 204 || a.status == 304:
		a.framing = noBody
	case codings > 0:
		a.framing = chunkedBody
	case lengths > 0:
		a.framing = fixedBody
	default:
		a.framing, a.keepAlive = closeBody, false
	}
	return nil
}

func cutAnswerLine(b []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(b, []byte{'\n'})
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, rest
}

// statusLine reads "HTTP/1.x NNN reason".
func (a *answer) statusLine(line []byte) bool {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' {
		return false
	}
	for _, c := range line[9:12] {
		if !isDigit(c) {
			return false
		}
		a.status = a.status*10 + int(c-'0')
	}
	if a.status < 100 || len(line) > 12 && line[12] != ' ' {
		return false
	}
	a.reason = line[min(len(line), 13):]
	for _, c := range a.reason {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// appendHead writes the head that the client gets, without the empty line behind
// it. stream tells that the body follows as it comes: in chunks, unless it has a
// length.
func (a *answer) appendHead(b []byte, r *route, stream bool) []byte {
	chunks := stream && (a.framing != fixedBody || a.coding != identity)
	b = a.appendFields(a.appendStatus(b), r, chunks)
	if a.status == fasthttp.StatusUpgradeRequired && len(a.upgrade) > 0 {
		// It says nothing without (RFC 9110, section 15.5.22), and we do what it
		// asks for.
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), a.upgrade...), "\r\n"...)
	}
	if a.vary {
		b = a.appendCoding(b, r.toClient)
	}
	b = r.toClient.append(b)
	if chunks {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if !a.dated {
		b = appendDate(b)
	}
	return appendVia(b, version11)
}

func (a *answer) appendStatus(b []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	return append(append(append(b, ' '), a.reason...), "\r\n"...)
}

// appendFields writes the fields of the backend that go on.
func (a *answer) appendFields(b []byte, r *route, chunks bool) []byte {
	for i := range a.fields {
		f := &a.fields[i]
		if r.toClient.has(f.name) {
			continue
		}
		if a.coding != identity {
			var done bool
			if b, done = a.appendCoded(b, f); done {
				continue
			}
		}
		switch {
		case f.kind == lengthField:
			if a.status == 204 || a.status < 200 {
				continue // RFC 9110, section 8.6
			}
		case f.kind == setCookieField && !r.admin:
			if setsOwnCookie(f.value, r.sticky) {
				continue
			}
		case f.kind == trailerField && chunks:
			b = appendTrailerNames(b, f.value, r.toClient)
			continue
		case f.kind >= reservedField, f.kind == expectField:
			// Of no meaning in an answer, and so none of our business.
		case !forwardable(a.connection, f):
			continue
		}
		b = appendField(b, f.name, f.value)
	}
	return b
}

// appendDate writes the Date that a recipient adds (RFC 9110, section 6.6.1).
func appendDate(b []byte) []byte {
	b = append(b, "Date: "...)
	b = time.Now().UTC().AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 GMT")
	return append(b, "\r\n"...)
}

// headReader carries a head into a fasthttp answer through its parser: the only
// way that keeps the spelling of names, repeated fields and Date.
type headReader struct {
	src bytes.Reader
	buf *bufio.Reader
}

func (r *headReader) read(h *fasthttp.ResponseHeader, head []byte) error {
	r.src.Reset(head)
	if r.buf == nil || r.buf.Size() < len(head) {
		r.buf = bufio.NewReaderSize(&r.src, max(firstBuffer, len(head)))
	} else {
		r.buf.Reset(&r.src)
	}
	if err := h.Read(r.buf); err != nil {
		return errAnswer
	}
	h.ResetConnectionClose() // fasthttp reads an unknown length as "close"
	return nil
}

// setTrailers gives the field lines behind a body to h, which sends them after the
// last chunk: the announced ones, or all where nobody needs to have them announced.
func setTrailers(h *fasthttp.ResponseHeader, lines []byte, all bool) {
	for len(lines) > 0 {
		var line []byte
		line, lines = cutLine(lines)
		name, value, ok := cutField(line)
		if !ok {
			continue
		}
		if all && h.AddTrailerBytes(name) == nil {
			h.AddBytesKV(name, value)
			continue
		}
		for announced := range h.Trailers() {
			if bytes.EqualFold(announced, name) {
				h.AddBytesKV(announced, value)
				break
			}
		}
	}
}
