package l4

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

// dialTimeout ends the wait for a target that does not answer.
const dialTimeout = 10 * time.Second

// udpIdle ends an association without traffic. Home routers forget a mapping
// after 30 to 180 seconds.
const udpIdle = 120 * time.Second

// Options is what a Server is built from.
type Options struct {
	Log *slog.Logger

	// Dial reaches a target through the tunnel or from the host. For "udp" it
	// returns a connected conn and does not wait for the network.
	Dial func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

	// Binds is where every port is opened; at least one.
	Binds []Bind

	// TCP and UDP bound the flows; what is zero has a default.
	TCP, UDP Limits

	// Clients tells whom flows are counted against.
	Clients model.Clients

	// Room bounds the sockets of flows together with those of others; nil does not.
	Room *model.Room
}

// Server forwards ports. Its methods may be called at the same time.
type Server struct {
	log     *slog.Logger
	clients model.Clients
	room    *model.Room
	dial    func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	binds   []Bind
	start   time.Time     // what times of associations count from
	udpIdle time.Duration // udpIdle, but for tests

	tcp, udp *ledger
	refused  atomic.Uint64
	dropped  atomic.Uint64
	panics   atomic.Uint64

	wg sync.WaitGroup // every goroutine of ports and flows

	mu      sync.Mutex
	ports   map[portKey]*port
	pending bool // a Pending is neither committed nor aborted
	closed  bool

	draining atomic.Bool
}

// Status is what a Server does at the moment.
type Status struct {
	Ports   []PortStatus          // by port, TCP first
	Flows   map[model.RouteID]int // TCP connections and UDP associations; no zero values
	Refused uint64                // connections closed and associations not made because of a limit
	Dropped uint64                // datagrams dropped: no association, too long, or too much unasked
	Panics  uint64                // flows ended by a fault of ours
}

// PortStatus is one open port and the route that owns it.
type PortStatus struct {
	Network string
	Port    uint16
	Route   model.RouteID
}

// New checks o. The server opens nothing before the first Prepare.
func New(o Options) (*Server, error) {
	switch {
	case o.Log == nil:
		return nil, model.Failure(model.KindInternal, "l4: no logger")
	case o.Dial == nil:
		return nil, model.Failure(model.KindInternal, "l4: no dialer")
	case len(o.Binds) == 0:
		return nil, model.Failure(model.KindInternal, "l4: nowhere to listen")
	}
	for _, b := range o.Binds {
		if b.Listen == nil || b.ListenPacket == nil {
			return nil, model.Failure(model.KindInternal, "l4: bind %q cannot listen", b.Name)
		}
	}
	return &Server{
		log:     o.Log.With("part", "l4"),
		clients: o.Clients,
		room:    o.Room,
		dial:    o.Dial,
		binds:   slices.Clone(o.Binds),
		start:   time.Now(),
		udpIdle: udpIdle,
		tcp:     newLedger(o.TCP.orDefault(Limits{maxTCPAll, maxTCPPerRoute, maxTCPPerClient}), o.Room, 2),
		udp:     newLedger(o.UDP.orDefault(Limits{maxUDPAll, maxUDPPerRoute, maxUDPPerClient}), o.Room, 1),
		ports:   make(map[portKey]*port),
	}, nil
}

// Listens reports whether a port of this host is open here.
func (s *Server) Listens(network string, port uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ports[portKey{network, port}] != nil
}

// Forget ends the associations of clients with the given addresses. Connections
// end by themselves when their client is gone, datagrams would go to whoever has
// its address next.
func (s *Server) Forget(lost func(client netip.Addr) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		p.forget(lost)
	}
}

// Drain lets no new flow in; those that are open go on until Close.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		for _, ln := range p.listeners {
			_ = ln.Close() // its loop waits for close
		}
	}
}

// Close closes every port, ends every flow and waits until all is gone. What
// is still prepared must be aborted by whoever holds it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for key, p := range s.ports {
		p.close()
		delete(s.ports, key)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Status reports the open ports and the flows.
func (s *Server) Status() Status {
	st := Status{
		Flows:   make(map[model.RouteID]int),
		Refused: s.refused.Load(),
		Dropped: s.dropped.Load(),
		Panics:  s.panics.Load(),
	}
	s.tcp.addTo(st.Flows)
	s.udp.addTo(st.Flows)
	s.mu.Lock()
	for key, p := range s.ports {
		st.Ports = append(st.Ports, PortStatus{key.network, key.port, p.ownerNow().route})
	}
	s.mu.Unlock()
	slices.SortFunc(st.Ports, func(a, b PortStatus) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Network, b.Network))
	})
	return st
}
