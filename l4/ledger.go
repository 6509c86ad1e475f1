package l4

import (
	"net/netip"
	"sync"

	"gatecontrol/model"
)

// Limits bounds flows: in all, per route, and per client address. An IPv6
// client is its /64, because one host has all of it. Zero means the default.
type Limits struct {
	All, PerRoute, PerClient int
}

// The defaults. A TCP flow costs two file descriptors, six once it is bulky
// (one kernel pipe per direction), two goroutines and no buffer while idle; an
// association costs one descriptor and one goroutine. No route can take more
// than half of all TCP flows.
const (
	maxTCPAll       = 16384
	maxTCPPerRoute  = 8192
	maxTCPPerClient = 4096

	maxUDPAll       = 16384
	maxUDPPerRoute  = 4096
	maxUDPPerClient = 256
)

func (l Limits) orDefault(d Limits) Limits {
	if l.All == 0 {
		l.All = d.All
	}
	if l.PerRoute == 0 {
		l.PerRoute = d.PerRoute
	}
	if l.PerClient == 0 {
		l.PerClient = d.PerClient
	}
	return l
}

// ledger counts the flows of one protocol.
type ledger struct {
	limits Limits
	room   *model.Room
	size   int // sockets of a flow

	mu      sync.Mutex
	all     int
	routes  map[model.RouteID]int // no zero values
	clients map[netip.Addr]int    // no zero values
}

func newLedger(l Limits, room *model.Room, size int) *ledger {
	return &ledger{
		limits:  l,
		room:    room,
		size:    size,
		routes:  make(map[model.RouteID]int),
		clients: make(map[netip.Addr]int),
	}
}

// admit counts one more flow, or reports that a limit is reached.
func (l *ledger) admit(route model.RouteID, client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.limits.All || l.routes[route] >= l.limits.PerRoute || l.clients[client] >= l.limits.PerClient || !l.room.Take(l.size) {
		return false
	}
	l.all++
	l.routes[route]++
	l.clients[client]++
	return true
}

// release takes back what admit counted.
func (l *ledger) release(route model.RouteID, client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Give(l.size)
	l.all--
	if l.routes[route]--; l.routes[route] == 0 {
		delete(l.routes, route)
	}
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

// addTo adds the flows of each route to m.
func (l *ledger) addTo(m map[model.RouteID]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, n := range l.routes {
		m[id] += n
	}
}
