package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connection of a client or to a backend. Its writes end only when the
// peer has taken nothing for the stall limit: a slow reader of a large piece makes
// progress.
type socket struct {
	net.Conn
	stall   time.Duration
	writeBy time.Time
	host    *hostSocket // reads and writes, if it is one of this host
}

func newSocket(nc net.Conn, stall time.Duration) *socket {
	return &socket{Conn: nc, stall: stall, host: newHostSocket(nc)}
}

func (s *socket) Read(p []byte) (int, error) {
	if s.host != nil {
		return s.host.Read(p)
	}
	return s.Conn.Read(p)
}

func (s *socket) Write(p []byte) (n int, err error) {
	for {
		now := time.Now()
		if s.writeBy.Sub(now) < s.stall {
			s.writeBy = now.Add(s.stall + s.stall/8)
			_ = s.Conn.SetWriteDeadline(s.writeBy)
		}
		m, err := s.write(p[n:])
		n += m
		if err == nil || m == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

func (s *socket) write(p []byte) (int, error) {
	if s.host != nil {
		return s.host.Write(p)
	}
	return s.Conn.Write(p)
}

// hostSocket reads and writes a TCP socket of this host. The calls never block, so
// the scheduler is not told of them: telling it costs as much as a short call, and
// makes it look for another thread during a long one, as those are that carry data
// all the way to a reader on the same host.
type hostSocket struct {
	raw     syscall.RawConn
	in, out half
}

// half is one direction of a hostSocket.
type half struct {
	mu  sync.Mutex            // held while it waits, as a net.Conn does
	try func(fd uintptr) bool // made once, so that a call allocates nothing
	p   []byte                // what try reads into, or what is left to write
	n   int
	err error
}

// newHostSocket returns nil for what is no TCP socket of this host.
func newHostSocket(nc net.Conn) *hostSocket {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	h := &hostSocket{raw: raw}
	h.in.try, h.out.try = h.in.read, h.out.write
	return h
}

func (h *hostSocket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	d := &h.in
	d.mu.Lock()
	defer d.mu.Unlock()
	d.p, d.n, d.err = p, 0, nil
	err := h.raw.Read(d.try) // a deadline, or closed
	d.p = nil
	switch {
	case err != nil:
		return 0, err
	case d.err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", d.err)}
	case d.n == 0:
		return 0, io.EOF
	}
	return d.n, nil
}

func (d *half) read(fd uintptr) bool {
	for {
		n, errno := readNow(fd, d.p)
		switch errno {
		case 0:
			d.n = n
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			d.err = errno
		}
		return true
	}
}

// Write waits until all of p is written.
func (h *hostSocket) Write(p []byte) (int, error) {
	d := &h.out
	d.mu.Lock()
	defer d.mu.Unlock()
	d.p, d.err = p, nil
	err := h.raw.Write(d.try) // a deadline, or closed
	n := len(p) - len(d.p)
	d.p = nil
	if err == nil && d.err != nil {
		err = &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", d.err)}
	}
	return n, err
}

func (d *half) write(fd uintptr) bool {
	for len(d.p) > 0 {
		n, errno := writeNow(fd, d.p)
		switch errno {
		case 0:
			d.p = d.p[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			d.err = errno
			return true
		}
	}
	return true
}
