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

func receiveFrom(fd uintptr, b []byte) (int, netip.Addr, error) {
	n, err := syscall.Read(int(fd), b)
	return n, netip.Addr{}, err
}

func readError(uintptr, []byte) (socketError, bool) { return socketError{}, false }
