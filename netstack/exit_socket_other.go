//go:build !linux

package netstack

import (
	"net"
	"net/netip"
	"syscall"
)

// Elsewhere the exit carries no echo, and errors that arrive about what it has
// sent are not told apart.

func dialICMP(netip.Addr) (net.Conn, error) { return nil, errNoEcho }

func reportErrors(syscall.RawConn, netip.Addr) {}

func setTTL(syscall.RawConn, netip.Addr, uint8) {}

// Datagrams go one by one.

type joinedRead struct{}

func newJoinedRead(syscall.RawConn) *joinedRead { return nil }

func (*joinedRead) read(fd uintptr, b []byte) (n, segment int, err error) {
	n, err = syscall.Read(int(fd), b)
	return n, 0, err
}

type joinedWrite struct{}

func newJoinedWrite(syscall.RawConn) *joinedWrite { return nil }

func (*joinedWrite) write(syscall.RawConn, [][]byte, int) error { return syscall.EOPNOTSUPP }

func segmentsRefused(err error) bool { return err == syscall.EOPNOTSUPP }

func receiveFrom(fd uintptr, b []byte) (int, netip.Addr, error) {
	n, err := syscall.Read(int(fd), b)
	return n, netip.Addr{}, err
}

func readError(uintptr, []byte) (socketError, bool) { return socketError{}, false }
