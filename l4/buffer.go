package l4

import (
	"io"
	"net"
	"sync"
	"syscall"

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
