package netstack

import (
	"cmp"
	"net"
	"syscall"
)

// copyBuffer is the size of the buffers between the exit's two sides: the largest
// echo message, and enough to move TCP in few calls.
const copyBuffer = 64 << 10

// reader reads from a socket of this host into pooled buffers. While it waits
// it holds none, so that idle flows cost little. It is for one goroutine.
type reader struct {
	exit *exit
	conn net.Conn
	raw  syscall.RawConn // nil if conn is no socket
	max  int             // bytes of one read

	poll func(fd uintptr) bool
	buf  *[copyBuffer]byte
	n    int
	err  error
}

// newReader reads at most limit bytes at once.
func (e *exit) newReader(c net.Conn, limit int) *reader {
	r := &reader{exit: e, conn: c, max: min(limit, copyBuffer)}
	if s, ok := c.(syscall.Conn); ok {
		r.raw, _ = s.SyscallConn()
	}
	r.poll = func(fd uintptr) bool {
		r.buf = e.buffers.Get().(*[copyBuffer]byte)
		for {
			r.n, r.err = syscall.Read(int(fd), r.buf[:r.max])
			if r.err != syscall.EINTR {
				break
			}
		}
		if r.err != syscall.EAGAIN {
			return true
		}
		e.buffers.Put(r.buf)
		r.buf = nil
		return false
	}
	return r
}

// next waits for data. The buffer, if it is not nil, belongs to the caller,
// who puts it back into the pool. Reading nothing without an error is the end
// of a stream, or an empty datagram.
func (r *reader) next() (*[copyBuffer]byte, int, error) {
	r.buf, r.n, r.err = nil, 0, nil
	if r.raw == nil {
		r.buf = r.exit.buffers.Get().(*[copyBuffer]byte)
		r.n, r.err = r.conn.Read(r.buf[:r.max])
		return r.buf, r.n, r.err
	}
	if err := r.raw.Read(r.poll); err != nil {
		r.err = err
	}
	return r.buf, max(r.n, 0), r.err
}

// datagramBuffer is the size of the buffers for datagrams of this host's sockets:
// room for the largest one behind others that came with it. A flow holds one while
// it fills packets with it, not while it waits for datagrams, nor, unless there are
// many, for the network to take them.
const datagramBuffer = 2 * copyBuffer

// datagramReader reads datagrams from a socket of this host into pooled buffers,
// all that are there, and holds none while it waits. It is for one goroutine.
type datagramReader struct {
	exit *exit
	conn net.Conn
	raw  syscall.RawConn // nil if conn is no socket
	one  *joinedRead
	poll func(fd uintptr) bool

	buf   *[datagramBuffer]byte
	sizes []int // of the datagrams in buf
	err   error
}

func (e *exit) newDatagramReader(c net.Conn) *datagramReader {
	r := &datagramReader{exit: e, conn: c}
	if s, ok := c.(syscall.Conn); ok {
		if r.raw, _ = s.SyscallConn(); r.raw != nil {
			r.one = newJoinedRead(r.raw)
		}
	}
	r.poll = func(fd uintptr) bool {
		r.buf = e.datagramBuffers.Get().(*[datagramBuffer]byte)
		for used := 0; used <= len(r.buf)-copyBuffer && len(r.sizes) < maxRun; {
			n, segment, err := r.one.read(fd, r.buf[used:][:copyBuffer])
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				r.err = err
				break
			}
			used += n
			for ; n > segment && segment > 0; n -= segment {
				r.sizes = append(r.sizes, segment)
			}
			r.sizes = append(r.sizes, n)
		}
		if r.err != syscall.EAGAIN {
			return true
		}
		r.err = nil
		if len(r.sizes) > 0 {
			return true
		}
		e.datagramBuffers.Put(r.buf)
		r.buf = nil
		return false
	}
	return r
}

// next waits for datagrams. The buffer, if it is not nil, belongs to the caller,
// who puts it back into the pool; there may be datagrams in it besides an error.
// sizes is good until the next call.
func (r *datagramReader) next() (buf *[datagramBuffer]byte, sizes []int, err error) {
	r.buf, r.sizes, r.err = nil, r.sizes[:0], nil
	if r.raw == nil {
		r.buf = r.exit.datagramBuffers.Get().(*[datagramBuffer]byte)
		n, err := r.conn.Read(r.buf[:copyBuffer])
		if err == nil {
			r.sizes = append(r.sizes, n)
		}
		return r.buf, r.sizes, err
	}
	if err := r.raw.Read(r.poll); err != nil {
		r.err = err
	}
	return r.buf, r.sizes, r.err
}

// datagramWriter writes to a connected UDP socket without waiting: a datagram
// that does not fit is lost, as on any router, rather than holding up the
// peer's other packets. It is for one caller at a time.
type datagramWriter struct {
	conn net.Conn
	raw  syscall.RawConn // nil if conn is no socket
	poll func(fd uintptr) bool
	data []byte
	err  error

	joined *joinedWrite // nil until the first, and where the system takes one datagram at a time
	single bool         // it does
}

func newDatagramWriter(c net.Conn) *datagramWriter {
	w := &datagramWriter{conn: c}
	if s, ok := c.(syscall.Conn); ok {
		w.raw, _ = s.SyscallConn()
	}
	w.poll = func(fd uintptr) bool {
		_, w.err = syscall.Write(int(fd), w.data)
		return true
	}
	return w
}

// joins reports whether the system takes several datagrams in one call.
func (w *datagramWriter) joins() bool {
	if w.joined == nil && !w.single {
		if w.raw != nil {
			w.joined = newJoinedWrite(w.raw)
		}
		w.single = w.joined == nil
	}
	return !w.single
}

// writeJoined sends several datagrams, all but the last of size bytes, in one
// call, if w joins. Of its errors, segmentsRefused tells those that are about
// doing so.
func (w *datagramWriter) writeJoined(list [][]byte, size int) error {
	return w.joined.write(w.raw, list, size)
}

// write sends b. Errors are those of the system, so that a caller can tell
// what a router would.
func (w *datagramWriter) write(b []byte) error {
	if w.raw == nil {
		_, err := w.conn.Write(b)
		return err
	}
	w.data, w.err = b, nil
	err := w.raw.Write(w.poll)
	w.data = nil
	return cmp.Or(w.err, err)
}
