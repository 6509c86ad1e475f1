package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"gatecontrol/l4"
	"gatecontrol/model"
)

// listen opens a TCP port of this host. A port that is taken or not permitted
// becomes one line that says what to do.
func listen(setting, addr string) (net.Listener, error) {
	ln, err := l4.ListenTCP(addr)
	var opErr *net.OpError
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, failure(err, "%s: another process uses the port of %s; stop it or set another address", setting, addr)
	case errors.Is(err, os.ErrPermission):
		return nil, failure(err, "%s: user id %d may not open the port of %s; set a port above 1023", setting, os.Getuid(), addr)
	case errors.As(err, &opErr):
		return nil, failure(opErr.Err, "%s: %s is not an address that can be opened: %v", setting, addr, opErr.Err)
	}
	return nil, failure(err, "%s: %s cannot be opened", setting, addr)
}

// listenWeb opens a web port. Without a configured address it takes the usual
// one, or the other where the usual one is not permitted.
func listenWeb(log *slog.Logger, setting, configured, usual, other string) (net.Listener, error) {
	if configured != "" {
		return listen(setting, configured)
	}
	ln, err := listen(setting, usual)
	if errors.Is(err, os.ErrPermission) {
		log.Warn("the usual web port is not permitted to this user; taking another", "setting", setting, "usual", usual, "taken", other)
		return listen(setting, other)
	}
	return ln, err
}

// listenHTTP3 opens the UDP port beside the TLS web port. Without it clients stay
// on TCP, which is no reason not to start.
func listenHTTP3(log *slog.Logger, tls net.Addr) net.PacketConn {
	pc, err := net.ListenPacket("udp", tls.String())
	if err != nil {
		log.Warn("no HTTP/3: its UDP port cannot be opened; stop what uses it, or set GC_HTTP3 to false", "addr", tls, "err", err)
		return nil
	}
	return pc
}

// listenLocal opens the socket of the local commands. The store's lock is held,
// so a socket file that is there belongs to nobody.
func listenLocal(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The data directory has mode 0700 already, so nobody slipped in before.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

func portOf(ln net.Listener) uint16 {
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		return uint16(a.Port)
	}
	return 0
}

// pipeListener accepts connections that were made in this process: the proxy
// reaches the API through it.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "proxy" }

// hostAddrs lists the addresses of this host at this moment.
func hostAddrs() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, e := range list {
		if n, ok := e.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, a.Unmap().WithZone(""))
			}
		}
	}
	return addrs
}

func failure(err error, format string, args ...any) error {
	return &model.Error{Kind: model.KindUnavailable, Message: fmt.Sprintf(format, args...), Err: err}
}
