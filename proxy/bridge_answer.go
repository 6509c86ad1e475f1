package proxy

import (
	"io"
	"slices"
	"strconv"

	"github.com/valyala/fasthttp"
)

// answer sends what the pipeline left in the context. A body that ends short
// resets the stream, so that nobody takes the part for the whole.
func (b *bridge) answer() {
	r := &b.ctx.Response
	defer func() { _ = r.CloseBodyStream() }() // ends the exchange, whatever happened
	status := r.StatusCode()
	if door, ok := b.stream.(interface{ Retire() }); ok && status == fasthttp.StatusMisdirectedRequest && r.ConnectionClose() {
		door.Retire() // nothing that comes on this connection will be served
	}
	b.collect(&r.Header)
	if status == fasthttp.StatusUnauthorized && asksForConnection(b.fields) {
		b.ended = true
		b.stream.FallBack()
		return
	}
	streams := r.IsBodyStream()
	switch {
	case b.ctx.Request.Header.IsHead() || status < 200 || status == 204 || status == 304:
		b.settle(b.writeHead(status, b.fields, true, true))
	case streams:
		b.left = int64(max(-1, r.Header.ContentLength()))
		flush := r.ImmediateHeaderFlush && !b.corked
		err := b.writeHead(status, b.fields, false, flush)
		if err == nil {
			err = b.copy(r.BodyStream())
		}
		if err == nil && b.left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err == nil && !b.ended {
			err = b.finish(r.Header.TrailerHeader())
		}
		b.settle(err)
	default:
		body := r.Body()
		if r.Header.ContentLength() < 0 && len(body) > 0 || r.Header.ContentLength() == 0 {
			b.setLength(len(body))
		}
		err := b.writeHead(status, b.fields, len(body) == 0, len(body) == 0)
		if err == nil && len(body) > 0 {
			err = b.stream.WriteBody(body, true)
			b.ended = true
		}
		b.settle(err)
	}
}

// settle resets a stream whose answer could not be sent whole.
func (b *bridge) settle(err error) {
	if err != nil {
		b.stream.Reset()
	}
}

func (b *bridge) writeHead(status int, fields []field, end, flush bool) error {
	b.begun, b.ended = true, end
	return b.stream.WriteHead(status, fields, end, flush)
}

// copy sends a body stream piece by piece, each one at once.
func (b *bridge) copy(body io.Reader) error {
	if w, ok := body.(fasthttp.BodyWriterTo); ok && w.SupportsBodyWriteTo() {
		_, err := w.WriteTo(bodyWriter{b})
		return err
	}
	buf := b.srv.pieces.Get().(*piece)
	defer b.srv.pieces.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			if err := b.writeBody(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// bodyWriter is a bridge as the writer of an answer's body.
type bodyWriter struct{ b *bridge }

func (w bodyWriter) Write(p []byte) (int, error) { return w.b.Write(p) }

// writeBody sends a piece of the body. The last one of a known length carries the
// end of the stream, and more than that is never sent.
func (b *bridge) writeBody(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if b.left < 0 {
		return b.stream.WriteBody(p, false)
	}
	if int64(len(p)) > b.left {
		return errAnswer
	}
	b.left -= int64(len(p))
	b.ended = b.left == 0
	return b.stream.WriteBody(p, b.ended)
}

// finish sends the end, with the trailers that are in lines.
func (b *bridge) finish(lines []byte) error {
	b.ended = true
	b.collectLines(lines)
	b.fields = slices.DeleteFunc(b.fields, func(f field) bool { return !mayTrail(f.name) })
	if len(b.fields) == 0 {
		return b.stream.WriteBody(nil, true)
	}
	return b.stream.WriteTrailer(b.fields)
}

// collect takes the fields out of a header, names in lower case. The copy is what
// allows fasthttp to reuse its buffers, and the pipeline to add trailers.
func (b *bridge) collect(h *fasthttp.ResponseHeader) {
	b.fields, b.arena = b.fields[:0], b.arena[:0]
	for name, value := range h.All() {
		b.addField(name, value)
	}
}

// collectLines takes the fields out of lines, up to an empty one.
func (b *bridge) collectLines(lines []byte) {
	b.fields, b.arena = b.fields[:0], b.arena[:0]
	for {
		var line []byte
		if line, lines = cutLine(lines); len(line) == 0 {
			return
		}
		if name, value, ok := cutField(line); ok {
			b.addField(name, value)
		}
	}
}

// addField adds a field of the answer, unless it is of a connection.
func (b *bridge) addField(name, value []byte) {
	kind := classify(name)
	switch kind {
	case connectionField, hopField, codingField, upgradeField, teField:
		return
	}
	// Growth moves the arena, but what points into the old one keeps it.
	at := len(b.arena)
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b.arena = append(b.arena, c)
	}
	mid := len(b.arena)
	b.arena = append(b.arena, value...)
	b.fields = append(b.fields, field{b.arena[at:mid:mid], b.arena[mid:len(b.arena):len(b.arena)], kind})
}

// setLength gives an answer whose body is complete its length.
func (b *bridge) setLength(n int) {
	for i := range b.fields {
		if b.fields[i].kind == lengthField {
			b.fields = append(b.fields[:i], b.fields[i+1:]...)
			break
		}
	}
	at := len(b.arena)
	b.arena = strconv.AppendInt(b.arena, int64(n), 10)
	b.fields = append(b.fields, field{contentLength, b.arena[at:len(b.arena):len(b.arena)], lengthField})
}

var contentLength = []byte("content-length")

// refuse answers a head that failed the strict checks. The text is fixed: nothing
// of the request is repeated.
func (b *bridge) refuse(status int) {
	head, text := b.srv.refusalHead(b, status)
	b.collectLines(head)
	if string(b.head.method) == "HEAD" {
		b.settle(b.writeHead(status, b.fields, true, true))
		return
	}
	b.settle(b.writeHead(status, b.fields, false, false))
	b.settle(b.stream.WriteBody(text, true))
}
