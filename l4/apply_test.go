package l4

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gatecontrol/model"
)

var anyTarget = netip.MustParseAddrPort("127.0.0.1:9")

func TestOwners(t *testing.T) {
	tcp := func(id model.RouteID, first, last uint16) Route {
		return Route{id, "tcp", first, last, anyTarget}
	}
	udp := func(id model.RouteID, first, last uint16) Route {
		return Route{id, "udp", first, last, anyTarget}
	}
	for _, tt := range []struct {
		name   string
		routes []Route
		kind   model.Kind
		field  string
		detail any
		ports  int
	}{
		{name: "nothing"},
		{name: "neighbours", routes: []Route{tcp(1, 100, 109), tcp(2, 110, 119)}, ports: 20},
		{name: "tcp and udp on one port", routes: []Route{tcp(1, 100, 100), udp(2, 100, 100)}, ports: 2},
		{name: "last port", routes: []Route{tcp(1, 65535, 65535)}, ports: 1},
		{name: "same port", routes: []Route{tcp(7, 100, 100), tcp(8, 100, 100)},
			kind: model.KindConflict, field: "l4_listen_port", detail: PortConflict{100, 7}},
		{name: "port in a range", routes: []Route{udp(7, 100, 200), udp(8, 150, 150)},
			kind: model.KindConflict, field: "l4_listen_port", detail: PortConflict{150, 7}},
		{name: "ranges overlap at the end", routes: []Route{tcp(1, 100, 200), tcp(2, 300, 400), tcp(3, 250, 300)},
			kind: model.KindConflict, field: "l4_listen_port", detail: PortConflict{300, 2}},
		{name: "too many", routes: []Route{tcp(1, 1, maxPorts+1)}, kind: model.KindConflict, field: "l4_listen_port"},
		{name: "port zero", routes: []Route{tcp(1, 0, 5)}, kind: model.KindInvalid, field: "l4_listen_port"},
		{name: "backwards", routes: []Route{tcp(1, 10, 5)}, kind: model.KindInvalid, field: "l4_listen_port"},
		{name: "protocol", routes: []Route{{1, "sctp", 1, 1, anyTarget}}, kind: model.KindInvalid, field: "l4_protocol"},
		{name: "no target", routes: []Route{{1, "tcp", 1, 1, netip.AddrPort{}}}, kind: model.KindInvalid, field: "target_ip"},
		{name: "unspecified target", routes: []Route{{1, "tcp", 1, 1, netip.MustParseAddrPort("0.0.0.0:1")}},
			kind: model.KindInvalid, field: "target_ip"},
		{name: "target without port", routes: []Route{{1, "tcp", 1, 1, netip.MustParseAddrPort("10.8.0.2:0")}},
			kind: model.KindInvalid, field: "target_port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Config{tt.routes}.owners()
			if tt.field == "" {
				if err != nil || len(m) != tt.ports {
					t.Fatalf("%d ports, %v; want %d", len(m), err, tt.ports)
				}
				return
			}
			e, ok := errors.AsType[*model.Error](err)
			if !ok || e.Kind != tt.kind || e.Field != tt.field || e.Detail != tt.detail {
				t.Fatalf("got %#v", err)
			}
		})
	}
}

func TestConfigEqual(t *testing.T) {
	a := Config{[]Route{route(1, "tcp", 1000, anyTarget)}}
	if b := (Config{[]Route{route(1, "tcp", 1000, anyTarget)}}); !a.Equal(b) {
		t.Error("equal configs differ")
	}
	if b := (Config{[]Route{route(1, "udp", 1000, anyTarget)}}); a.Equal(b) {
		t.Error("different configs are equal")
	}
}

func TestListenError(t *testing.T) {
	op := func(err error) error { return &net.OpError{Op: "listen", Err: err} }
	for _, tt := range []struct {
		name string
		err  error
		kind model.Kind
		text string
	}{
		{"taken", op(syscall.EADDRINUSE), model.KindConflict, "udp port 53 is in use"},
		{"taken in the tunnel", op(errors.New("port is in use")), model.KindConflict, "udp port 53 is in use"},
		{"not permitted", op(syscall.EACCES), model.KindConflict, "udp port 53 may not be opened"},
		{"no descriptors", op(syscall.EMFILE), model.KindUnavailable, "udp port 53 cannot be opened"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, ok := errors.AsType[*model.Error](listenError(portKey{"udp", 53}, tt.err))
			if !ok || e.Kind != tt.kind || e.Field != fieldListenPort || !strings.HasPrefix(e.Message, tt.text) || !errors.Is(e, tt.err) {
				t.Fatalf("got %#v", e)
			}
		})
	}
}

func TestPortHeldByAnotherSocket(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			s, target := newServer(t), echoTarget(t)
			kept, fresh, held := freePort(t), freePort(t), freePort(t)
			address := net.JoinHostPort(loopback, strconv.Itoa(int(held)))
			if network == "tcp" {
				ln, err := net.Listen("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
			} else {
				pc, err := net.ListenPacket("udp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer pc.Close()
			}
			apply(t, s, route(1, "tcp", kept, target))
			c := dialPort(t, kept)
			ping(t, c)

			p, err := s.Prepare(Config{[]Route{
				route(2, "tcp", fresh, target), route(3, network, held, target),
			}})
			if p != nil || model.KindOf(err) != model.KindConflict || !strings.Contains(err.Error(), strconv.Itoa(int(held))) {
				t.Fatalf("got %v", err)
			}
			ping(t, c) // what served still serves
			ln, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(fresh))))
			if err != nil {
				t.Fatalf("port of the refused change stayed open: %v", err)
			}
			_ = ln.Close()
		})
	}
}

func TestSecondBindHeldLeavesNothingOpen(t *testing.T) {
	s := newServer(t, func(o *Options) { o.Binds = append(o.Binds, HostBind("127.0.0.2")) })
	port := freePort(t)
	held, err := net.Listen("tcp", net.JoinHostPort("127.0.0.2", strconv.Itoa(int(port))))
	if err != nil {
		t.Skip("no second loopback address: ", err)
	}
	defer held.Close()
	if _, err := s.Prepare(Config{[]Route{route(1, "tcp", port, anyTarget)}}); model.KindOf(err) != model.KindConflict {
		t.Fatalf("got %v", err)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
	if err != nil {
		t.Fatalf("first bind stayed open: %v", err)
	}
	_ = ln.Close()
}

func TestAbortLeavesNothingOpen(t *testing.T) {
	s, port := newServer(t), freePort(t)
	r := Config{[]Route{route(1, "tcp", port, echoTarget(t)), route(2, "udp", port, anyTarget)}}
	p, err := s.Prepare(r)
	if err != nil {
		t.Fatal(err)
	}
	p.Abort()
	p.Commit() // after Abort it does nothing
	if st := s.Status(); len(st.Ports) != 0 {
		t.Fatalf("open: %v", st.Ports)
	}
	address := net.JoinHostPort(loopback, strconv.Itoa(int(port)))
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = pc.Close()
}

func TestPreparedPortAcceptsNothing(t *testing.T) {
	s, port := newServer(t), freePort(t)
	p, err := s.Prepare(Config{[]Route{route(1, "tcp", port, named(t, 'a'))}})
	if err != nil {
		t.Fatal(err)
	}
	c := dialPort(t, port) // waits in the backlog
	if st := s.Status(); len(st.Ports) != 0 || len(st.Flows) != 0 {
		t.Fatalf("serves before Commit: %+v", st)
	}
	if _, err := s.Prepare(Config{}); model.KindOf(err) != model.KindUnavailable {
		t.Fatalf("two changes at once: %v", err)
	}
	p.Commit()
	expect(t, c, 'a')
}

func TestRemovedPortClosesAndComesBack(t *testing.T) {
	s, port, target := newServer(t), freePort(t), echoTarget(t)
	for range 20 {
		apply(t, s, route(1, "tcp", port, target), route(2, "udp", port, target))
		c := dialPort(t, port)
		ping(t, c)
		apply(t, s)
		expectEnd(t, c)
		if _, err := net.Dial("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(port)))); err == nil {
			t.Fatal("port still open")
		}
	}
	eventually(t, "flows are forgotten", func() bool { return flows(s, 1) == 0 })
}

// A port that changes its target or its route stays open: no connect fails.
func TestPortChangesOwner(t *testing.T) {
	s, port := newServer(t), freePort(t)
	a, b := named(t, 'a'), named(t, 'b')
	apply(t, s, route(1, "tcp", port, a))
	for _, step := range []struct {
		name string
		to   Route
		want byte
	}{
		{"target", route(1, "tcp", port, b), 'b'},
		{"route", route(2, "tcp", port, b), 'b'},
		{"both", route(1, "tcp", port, a), 'a'},
	} {
		old := dialPort(t, port)
		expect(t, old, map[byte]byte{'a': 'a', 'b': 'b'}[ownerName(s, port, a)])

		stop, failed := make(chan struct{}), make(chan error, 1)
		go func() {
			defer close(failed)
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
				switch {
				case err == nil:
					_ = c.Close()
				case !errors.Is(err, syscall.ECONNRESET): // accepted, and cut with its route
					failed <- err
					return
				}
			}
		}()
		apply(t, s, step.to)
		close(stop)
		if err := <-failed; err != nil {
			t.Fatalf("%s: a connect failed: %v", step.name, err)
		}
		expectEnd(t, old)
		expect(t, dialPort(t, port), step.want)
	}
}

func ownerName(s *Server, port uint16, a netip.AddrPort) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[portKey{"tcp", port}].ownerNow().target == a {
		return 'a'
	}
	return 'b'
}

// A range that grows keeps the flows it has.
func TestRangeGrowsAndForwardsToOneTarget(t *testing.T) {
	s, target := newServer(t), named(t, 'x')
	var first uint16
	for first = freePort(t); first > 65500; first = freePort(t) {
	}
	r := Route{1, "tcp", first, first, target}
	apply(t, s, r)
	c := dialPort(t, first)
	expect(t, c, 'x')
	r.Last = first + 3
	p, err := s.Prepare(Config{[]Route{r}})
	if err != nil {
		t.Skip("a neighbour port is taken: ", err)
	}
	p.Commit()
	ping(t, c)
	for port := r.First; port <= r.Last; port++ {
		expect(t, dialPort(t, port), 'x')
	}
	if n := flows(s, 1); n != 5 {
		t.Fatalf("%d flows, want 5", n)
	}
}

func TestChangesOfOthersLoseNothing(t *testing.T) {
	s, target := newServer(t), echoTarget(t)
	stable, moving := freePort(t), freePort(t)
	keep := route(1, "tcp", stable, target)
	keepUDP := route(3, "udp", stable, udpEcho(t))
	apply(t, s, keep, keepUDP)

	c, u := dialPort(t, stable), dialUDP(t, stable)
	udpPing(t, u, []byte("first"))
	const total = 32 << 20
	var wg sync.WaitGroup
	sum := make(chan [2][32]byte, 1)
	wg.Go(func() { sum <- roundTrip(t, c, total) })
	for i := range 300 {
		if i%2 == 0 {
			apply(t, s, keep, keepUDP, route(2, "tcp", moving, target), route(4, "udp", moving, target))
		} else {
			apply(t, s, keep, keepUDP)
		}
		udpPing(t, u, []byte(strconv.Itoa(i)))
		ping(t, dialPort(t, stable))
	}
	wg.Wait()
	if h := <-sum; h[0] != h[1] {
		t.Fatal("bytes differ")
	}
}

func TestClose(t *testing.T) {
	s, port := newServer(t), freePort(t)
	apply(t, s, route(1, "tcp", port, echoTarget(t)), route(2, "udp", port, udpEcho(t)))
	c := dialPort(t, port)
	ping(t, c)
	udpPing(t, dialUDP(t, port), []byte("x"))
	p, err := s.Prepare(Config{[]Route{route(3, "tcp", freePort(t), anyTarget)}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	expectEnd(t, c)
	p.Commit() // too late: it must not open anything
	if st := s.Status(); len(st.Ports)+len(st.Flows) != 0 {
		t.Fatalf("after Close: %+v", st)
	}
	if _, err := s.Prepare(Config{}); model.KindOf(err) != model.KindUnavailable {
		t.Fatalf("Prepare after Close: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"nothing":   {},
		"no dialer": {Log: newServer(t).log, Binds: []Bind{HostBind("")}},
		"no bind":   {Log: newServer(t).log, Dial: dialHost},
		"half bind": {Log: newServer(t).log, Dial: dialHost, Binds: []Bind{{Name: "x"}}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Drain keeps the flows that are open and lets no new ones in.
func TestDrain(t *testing.T) {
	s := newServer(t)
	tcp, udp := freePort(t), freePort(t)
	apply(t, s, route(1, "tcp", tcp, echoTarget(t)), route(2, "udp", udp, udpEcho(t)))
	if !s.Listens("tcp", tcp) || s.Listens("udp", tcp) || !s.Listens("udp", udp) {
		t.Error("Listens does not tell what is open")
	}
	c, u := dialPort(t, tcp), dialUDP(t, udp)
	ping(t, c)
	udpPing(t, u, []byte("before"))
	s.Drain()
	ping(t, c)
	udpPing(t, u, []byte("after"))
	if late, err := net.Dial("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(tcp)))); err == nil {
		_ = late.Close()
		t.Error("a new connection was let in")
	}
	dropped := s.Status().Dropped
	if _, err := dialUDP(t, udp).Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new client's datagram to be dropped", func() bool { return s.Status().Dropped > dropped })
	if n := flows(s, 2); n != 1 {
		t.Errorf("%d associations", n)
	}
}
