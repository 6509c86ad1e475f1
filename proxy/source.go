package proxy

import (
	"errors"
	"io"
)

// errFull says that a line or head did not end within its limit.
var errFull = errors.New("longer than allowed")

// source is a buffered reader whose buffer is open to view: heads and chunk
// lines are parsed in place. buf[off:end] is what was received and not yet used.
// One goroutine at a time.
type source struct {
	r        io.Reader
	buf      []byte
	off, end int
	err      error // the end of r, kept because a watcher may meet it first
}

func (s *source) buffered() []byte { return s.buf[s.off:s.end] }
func (s *source) discard(n int)    { s.off += n }

// fill waits for more bytes behind those that are there. It fails with errFull
// when limit bytes are there already. Slices of earlier contents become invalid.
func (s *source) fill(limit int) error {
	if s.err != nil {
		return s.err
	}
	switch {
	case s.off == s.end:
		s.off, s.end = 0, 0
	case s.end-s.off >= limit:
		return errFull
	case s.end == len(s.buf) && s.off > 0:
		s.end = copy(s.buf, s.buf[s.off:s.end])
		s.off = 0
	}
	if s.end == len(s.buf) {
		grown := make([]byte, max(firstBuffer, min(2*len(s.buf), limit+2)))
		s.end = copy(grown, s.buf[:s.end])
		s.buf = grown
	}
	n, err := s.r.Read(s.buf[s.end:])
	s.end += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	if err == io.EOF {
		s.err = err
	}
	return err
}

// shrink gives back a buffer that one long head made grow.
func (s *source) shrink() {
	if s.off == s.end && len(s.buf) > firstBuffer {
		s.buf, s.off, s.end = nil, 0, 0
	}
}

// Read returns what is buffered, else reads large pieces straight into p.
func (s *source) Read(p []byte) (int, error) {
	if s.off == s.end {
		if s.err != nil {
			return 0, s.err
		}
		if len(p) >= len(s.buf) {
			n, err := s.r.Read(p)
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		if err := s.fill(len(s.buf)); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buf[s.off:s.end])
	s.off += n
	return n, nil
}
