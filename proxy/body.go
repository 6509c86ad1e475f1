package proxy

import (
	"bytes"
	"errors"
	"io"
)

// framing is how the end of a message body is told (RFC 9112, section 6.3).
type framing uint8

const (
	noBody framing = iota
	fixedBody
	chunkedBody
	closeBody // until the connection ends; answers of old backends alone
)

// errChunk says that chunked framing is broken. Nothing behind it can be read.
var errChunk = errors.New("invalid chunk")

// body reads one message body off a source, for requests and answers alike, and
// stops exactly where the next message begins. Read returns what has arrived
// rather than wait for more. One goroutine at a time.
type body struct {
	src      *source
	framing  framing
	left     int64 // bytes left of the body, or of the current chunk
	inChunk  bool  // a chunk was begun, and its final CRLF not yet read
	trailers []byte
	err      error // io.EOF after the clean end
}

// reset prepares for the next message. Trailers of the last one become invalid.
func (b *body) reset(src *source, f framing, length int64) {
	*b = body{src: src, framing: f, trailers: b.trailers[:0]}
	switch f {
	case fixedBody:
		b.left = length
	case noBody:
		b.err = io.EOF
	}
	if f == fixedBody && length == 0 {
		b.err = io.EOF
	}
}

// complete reports whether the body was read to its clean end.
func (b *body) complete() bool { return b.err == io.EOF }

// remaining is the number of bytes that are still to come, unknownLength if
// only the end will tell.
func (b *body) remaining() int64 {
	switch {
	case b.complete():
		return 0
	case b.framing == fixedBody:
		return b.left
	}
	return unknownLength
}

// Trailer returns the field lines behind a chunked body, each with its CRLF,
// once the body is complete.
func (b *body) Trailer() []byte { return b.trailers }

func (b *body) Read(p []byte) (n int, err error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	switch b.framing {
	case fixedBody:
		n, err = b.readLeft(p)
		if b.left == 0 {
			b.err = io.EOF
		}
	case chunkedBody:
		n, err = b.readChunks(p)
	default:
		n, err = b.src.Read(p)
	}
	if err != nil {
		if b.err = err; err == io.EOF && b.framing == fixedBody {
			b.err = io.ErrUnexpectedEOF
		}
	}
	if n > 0 {
		return n, nil // an end, clean or not, is told by the next call
	}
	return 0, b.err
}

// readLeft reads at most what is left of the body or chunk.
func (b *body) readLeft(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.src.Read(p)
	b.left -= int64(n)
	return n, err
}

// readChunks fills p with what has arrived, over several chunks if need be, and
// waits only while it has nothing at all.
func (b *body) readChunks(p []byte) (n int, err error) {
	for n < len(p) {
		if n > 0 && !b.canGoOn() {
			return n, nil
		}
		if b.left == 0 {
			if err := b.nextChunk(); err != nil {
				return n, err
			}
		}
		m, err := b.readLeft(p[n:])
		n += m
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// take returns the body if all of it is in the buffer of the source and not longer
// than limit, and makes it complete. The bytes are valid until the source is
// filled again. A body with trailers is left alone.
func (b *body) take(limit int) ([]byte, bool) {
	have := b.src.buffered()
	switch {
	case b.complete():
		return nil, true
	case b.framing == fixedBody && b.left <= int64(min(limit, len(have))):
		have = have[:b.left]
		b.src.discard(len(have))
	case b.framing == chunkedBody && !b.inChunk && len(have) > 0:
		end := wholeChunks(have)
		if end == 0 || end > limit {
			return nil, false
		}
		b.src.discard(end)
		have = joinChunks(have[:end])
	default:
		return nil, false
	}
	b.left, b.err = 0, io.EOF
	return have, true
}

// wholeChunks returns the length of a chunked body without trailers at the start
// of have, 0 if it is not complete or not sound.
func wholeChunks(have []byte) int {
	for at := 0; ; {
		line, rest := cutLine(have[at:])
		if rest == nil || have[at+len(line)] != '\r' || len(line) > maxChunkLine {
			return 0
		}
		n, err := chunkSize(line)
		if err != nil || n+2 > int64(len(rest)) || rest[n] != '\r' || rest[n+1] != '\n' {
			return 0
		}
		at += len(line) + 2 + int(n) + 2
		if n == 0 {
			return at
		}
	}
}

// joinChunks moves the data of sound chunks together, in place.
func joinChunks(have []byte) []byte {
	end := 0
	for rest := have; ; {
		line, data := cutLine(rest)
		n, _ := chunkSize(line)
		if n == 0 {
			return have[:end]
		}
		rest = data[n+2:]
		end += copy(have[end:], data[:n])
	}
}

// canGoOn reports whether more of the body can be had without waiting.
func (b *body) canGoOn() bool {
	have := b.src.buffered()
	if b.left > 0 {
		return len(have) > 0
	}
	// The CRLF of this chunk, then the line of the next one. The last chunk has
	// a trailer section, which may be late, so it is left to the next call.
	return len(have) > 3 && have[2] != '0' && bytes.IndexByte(have[2:], '\n') >= 0
}

// nextChunk reads the end of a chunk and the line of the next one; io.EOF is
// the end of the body, trailers included.
func (b *body) nextChunk() error {
	if b.inChunk {
		line, err := b.line(2)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return errChunk
		}
		b.inChunk = false
	}
	line, err := b.line(maxChunkLine)
	if err != nil {
		return err
	}
	if b.left, err = chunkSize(line); err != nil {
		return err
	}
	if b.left > 0 {
		b.inChunk = true
		return nil
	}
	for {
		line, err := b.line(maxTrailerSize - len(b.trailers))
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return io.EOF
		}
		name, _, ok := cutField(line)
		if !ok {
			return errChunk
		}
		if mayTrail(name) {
			b.trailers = append(append(b.trailers, line...), '\r', '\n')
		}
	}
}

// line takes one line of at most limit bytes, CRLF included, off the source.
func (b *body) line(limit int) ([]byte, error) {
	for seen := 0; ; {
		have := b.src.buffered()
		if i := bytes.IndexByte(have[seen:], '\n'); i >= 0 {
			i += seen
			if i == 0 || have[i-1] != '\r' || i+1 > limit {
				return nil, errChunk
			}
			b.src.discard(i + 1)
			return have[:i-1], nil
		}
		if seen = len(have); seen >= limit {
			return nil, errChunk
		}
		if err := b.src.fill(maxTrailerSize); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// chunkSize reads 1*HEXDIG, and behind a semicolon extensions, which are ignored.
func chunkSize(line []byte) (n int64, err error) {
	digits := 0
	for ; digits < len(line); digits++ {
		d := unhex(line[digits])
		if d < 0 {
			break
		}
		if digits == 15 { // 60 bits are enough for anyone
			return 0, errChunk
		}
		n = n<<4 | d
	}
	if digits == 0 || digits < len(line) && line[digits] != ';' {
		return 0, errChunk
	}
	if !isClean(line[digits:]) {
		return 0, errChunk
	}
	return n, nil
}
