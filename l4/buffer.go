package l4

import (
	"cmp"
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A large buffer takes any UDP datagram and is what TCP is copied through; a
// small one is what a connection of the tunnel waits with.
const (
	largeBuffer = 64 << 10
	smallBuffer = 4 << 10
)

// Pools of buffers. They hold no state, only memory that would be garbage.
var (
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
)

// lazyReader reads a socket of the host without holding a buffer while it
// waits.
type lazyReader struct {
	raw syscall.RawConn
	max int                   // bytes of one read
	try func(fd uintptr) bool // made once, so that a read allocates nothing

	buf *[largeBuffer]byte // results of try
	n   int
	err error
}

// newLazyReader reads at most limit bytes at once.
func newLazyReader(c *net.TCPConn, limit int) (*lazyReader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &lazyReader{raw: raw, max: min(limit, largeBuffer)}
	r.try = func(fd uintptr) bool {
		r.buf = largeBuffers.Get().(*[largeBuffer]byte)
		for {
			r.n, r.err = unix.Read(int(fd), r.buf[:r.max])
			if r.err != unix.EINTR {
				break
			}
		}
		if r.n <= 0 {
			largeBuffers.Put(r.buf)
			r.buf = nil
		}
		return r.err != unix.EAGAIN
	}
	return r, nil
}

// read waits for bytes. If n > 0, the caller owns buf and puts it back into
// largeBuffers.
func (r *lazyReader) read() (buf *[largeBuffer]byte, n int, err error) {
	if err := r.raw.Read(r.try); err != nil { // a deadline, or closed
		return nil, 0, err
	}
	switch {
	case r.err != nil:
		return nil, 0, r.err
	case r.n == 0:
		return nil, 0, io.EOF
	}
	return r.buf, r.n, nil
}

// hostWriter writes to a socket of the host. The call never blocks, so the
// scheduler is not told of it: telling it costs as much as a short call, and
// makes it look for another thread during a long one, as those are that carry
// data all the way to a reader on the same host.
type hostWriter struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // made once, so that a write allocates nothing

	data []byte
	err  error
}

// writerTo returns what writes to c best.
func writerTo(c net.Conn) io.Writer {
	socket, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return c
	}
	w := &hostWriter{raw: raw}
	w.try = w.write
	return w
}

// write reports false if there is no room.
func (w *hostWriter) write(fd uintptr) bool {
	for len(w.data) > 0 {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(w.data))), uintptr(len(w.data)))
		switch errno {
		case 0:
			w.data = w.data[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			w.err = errno
			return true
		}
	}
	return true
}

// Write waits until all of b is written.
func (w *hostWriter) Write(b []byte) (int, error) {
	w.data, w.err = b, nil
	err := w.raw.Write(w.try) // a deadline, or closed
	n := len(b) - len(w.data)
	w.data = nil
	return n, cmp.Or(err, w.err)
}

// waitReadable waits until a read of the socket would not block.
func waitReadable(raw syscall.RawConn) error {
	return raw.Read(readable)
}

func readable(fd uintptr) bool {
	poll := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll[:], 0)
	return n > 0 || (err != nil && err != unix.EINTR) // the read itself reports what is wrong
}

// wasReset reports whether the connection is over in both directions, which it
// is at once when the other side resets it.
func wasReset(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	reset := true
	if err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		reset = err != nil || info.State == unix.BPF_TCP_CLOSE
	}); err != nil {
		return true
	}
	return reset
}
