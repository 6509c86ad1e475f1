package netstack

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// hostAddrsAge is how old the list of this host's addresses may be. Asking the
// system costs about 100 µs, too much for every new flow.
const hostAddrsAge = time.Second

// hostAddrs knows every address of this host at this moment.
type hostAddrs struct {
	log   *slog.Logger
	fixed []netip.Addr // addresses that no interface has
	list  func() ([]net.Addr, error)

	refresh sync.Mutex // one question at a time
	current atomic.Pointer[hostAddrList]
}

type hostAddrList struct {
	set   map[netip.Addr]struct{}
	asked time.Time
}

func newHostAddrs(log *slog.Logger, fixed []netip.Addr) *hostAddrs {
	return &hostAddrs{log: log, fixed: fixed, list: net.InterfaceAddrs}
}

// contains reports whether addr is this host's. If the system does not tell,
// it says yes: what cannot be checked is refused.
func (h *hostAddrs) contains(addr netip.Addr) bool {
	c := h.current.Load()
	if c == nil || time.Since(c.asked) > hostAddrsAge {
		c = h.ask()
	}
	if c == nil {
		return true
	}
	_, found := c.set[addr.Unmap()]
	return found
}

// ask brings the list up to date. It returns nil if that is not possible.
func (h *hostAddrs) ask() *hostAddrList {
	h.refresh.Lock()
	defer h.refresh.Unlock()
	if c := h.current.Load(); c != nil && time.Since(c.asked) <= hostAddrsAge {
		return c // somebody else asked meanwhile
	}
	asked := time.Now()
	addrs, err := h.list()
	if err != nil {
		h.log.Warn("this host's addresses are not known; the exit is closed", "err", err)
		h.current.Store(nil)
		return nil
	}
	c := &hostAddrList{set: make(map[netip.Addr]struct{}, len(addrs)+len(h.fixed)), asked: asked}
	for _, a := range h.fixed {
		c.set[a.Unmap()] = struct{}{}
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				c.set[addr.Unmap()] = struct{}{}
			}
		}
	}
	h.current.Store(c)
	return c
}
