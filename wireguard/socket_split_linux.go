package wireguard

import (
	"errors"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// strangersBuffer is what may wait to be read of what no session sent, in bytes:
// some thousand handshakes. The kernel drops what comes beyond that, at no cost to
// the tunnels.
const strangersBuffer = 2 << 20

// split opens a second socket on the port of s, which gets the data messages of
// sessions from then on, and leaves all else to s. A flood of whatever strangers
// can send then fills a buffer that no tunnel uses. Without the system's help the
// answer is nil, and s gets everything.
//
// What the system joins to a message goes where that goes, so either may get
// anything. And it joins, before it asks the program below, as a socket of the two
// that a hash chooses allows it: both do.
func (s *socket) split(network string, tag byte) *socket {
	// The port was free: s has it alone. Only from here on another may be bound to
	// it, and by none but this user.
	if s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }) != nil {
		return nil
	}
	sessions, err := openSocket(s.log, network, s.port(), func(fd uintptr, v6 bool) error {
		return errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), setOptions(fd, v6))
	})
	if err == nil {
		if err = s.control(func(fd int) error { return attachSplit(fd, tag) }); err != nil {
			_ = sessions.conn.Close()
		}
	}
	_ = s.control(func(fd int) error {
		if err != nil {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
		}
		setBuffer(uintptr(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, strangersBuffer)
		return nil
	})
	if err != nil {
		return nil
	}
	return sessions
}

// control calls f with the number of the socket.
func (s *socket) control(f func(fd int) error) error {
	var err error
	return errors.Join(s.raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
}

// attachSplit has the kernel choose between the sockets of a port: 1, the second
// that was bound, for data messages to a receiver with tag as its last byte, 0 for
// all others. 0 is also for those that are too short to load from.
func attachSplit(fd int, tag byte) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeData << 24, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 7, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(tag), SkipTrue: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}
