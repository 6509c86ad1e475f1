package l4

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

const (
	// spliceAfter is how many bytes a direction carries through a buffer
	// before the kernel splices the rest. A short exchange is cheaper without
	// the pipe, and idle flows hold no pipe this way.
	spliceAfter = 128 << 10

	// halfCloseIdle ends a flow of which one direction is finished and the
	// other silent. A client that is gone after its FIN is not found by
	// keepalive while nothing is sent to it.
	halfCloseIdle = 10 * time.Minute

	// drainIdle is the same for a flow of which one end takes no more data:
	// what it still sent is on its way, so seconds are enough.
	drainIdle = 5 * time.Second
)

// stream is one direction of a TCP flow.
type stream struct {
	dst, src net.Conn
	opposite *stream
	room     *model.Room
	idle     atomic.Int64 // time.Duration after which silence ends it; 0 is never
	finished atomic.Bool  // src ended
}

// run copies until src ends. It reports false if the direction broke: the
// source was cut off, or silent for too long.
func (s *stream) run() (whole bool) {
	var err error
	for {
		var n int64
		n, err = s.copy()
		if idle := time.Duration(s.idle.Load()); isTimeout(err) && n > 0 && idle > 0 {
			_ = s.src.SetReadDeadline(time.Now().Add(idle)) // not silent: once more
			continue
		}
		break
	}
	switch _, stuck := errors.AsType[*writeError](err); {
	case err == nil:
		s.finished.Store(true)
		if s.opposite.finished.Load() {
			return true // the flow is closed now anyway
		}
		if c, ok := s.dst.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
		s.opposite.limitSilence(halfCloseIdle)
		return true
	case stuck:
		s.opposite.limitSilence(drainIdle)
		return true
	default:
		return false
	}
}

// limitSilence ends s once nothing came for d. It is called by the goroutine
// of the opposite direction.
func (s *stream) limitSilence(d time.Duration) {
	s.idle.Store(int64(d))
	_ = s.src.SetReadDeadline(time.Now().Add(d))
}

// writeError is a failure of dst, or of which end cannot be told.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// copy copies until src ends (no error), fails or is silent, and returns how
// many bytes it carried.
func (s *stream) copy() (n int64, err error) {
	src, onHost := s.src.(*net.TCPConn)
	if !onHost {
		return copyAdaptive(writerTo(s.dst), s.src)
	}
	dst, splices := s.dst.(*net.TCPConn)
	const endless = 1<<63 - 1
	limit := int64(endless)
	if splices {
		limit = spliceAfter
	}
	n, err = copyLazy(s.dst, src, limit)
	if err != nil || n < limit {
		return n, err
	}
	const pipe = 2 // descriptors
	if !s.room.Take(pipe) {
		m, err := copyLazy(s.dst, src, endless)
		return n + m, err
	}
	defer s.room.Give(pipe)
	m, err := dst.ReadFrom(src)
	if err != nil && !isTimeout(err) && !wasReset(src) {
		err = &writeError{err} // splice does not say which end failed
	}
	return n + m, err
}

// copyLazy copies from a socket of the host. It takes a buffer only when there
// is something to read, so a silent connection holds none.
func copyLazy(dst io.Writer, src *net.TCPConn, limit int64) (n int64, err error) {
	size := largeBuffer
	if w, ok := dst.(interface{ WriteSize() int }); ok { // of the tunnel: it knows what leaves together
		size = w.WriteSize()
	}
	r, err := newLazyReader(src, size)
	if err != nil {
		return 0, err
	}
	for n < limit {
		buf, m, err := r.read()
		if m > 0 {
			_, werr := dst.Write(buf[:m])
			largeBuffers.Put(buf)
			if werr != nil {
				return n, &writeError{werr}
			}
			n += int64(m)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// copyAdaptive copies from a connection that can only be read blocking. It
// waits with a small buffer, and takes a large one while there is more.
func copyAdaptive(dst io.Writer, src io.Reader) (n int64, err error) {
	small, large := smallBuffers.Get().(*[smallBuffer]byte), (*[largeBuffer]byte)(nil)
	defer smallBuffers.Put(small)
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	buffered := func() bool { return false }
	if b, ok := src.(interface{ Buffered() int }); ok { // of the tunnel: it knows what it holds
		buffered = func() bool { return b.Buffered() > 0 }
	}
	for {
		buf := small[:]
		if large != nil {
			buf = large[:]
		}
		m, err := src.Read(buf)
		if err == nil && large == nil && m == smallBuffer {
			large = largeBuffers.Get().(*[largeBuffer]byte)
			if buffered() { // so that all of it leaves together
				copy(large[:], small[:])
				buf = large[:]
				var more int
				more, err = src.Read(buf[m:])
				m += more
			}
		}
		if m > 0 {
			if _, werr := dst.Write(buf[:m]); werr != nil {
				return n, &writeError{werr}
			}
			n += int64(m)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if large != nil && m < largeBuffer/4 && !buffered() {
			largeBuffers.Put(large)
			large = nil
		}
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
