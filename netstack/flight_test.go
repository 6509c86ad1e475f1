package netstack

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

func TestShare(t *testing.T) {
	for n, want := range map[int32]int64{
		-1: tcpSendMax, 0: tcpSendMax, 1: tcpSendMax, 2: 4 << 20, 3: 2 << 20, 4: 2 << 20, 5: 1 << 20, 8: 1 << 20,
		9: 512 << 10, 64: minFlight, 65: minFlight, 1 << 20: minFlight, 1<<31 - 1: minFlight,
	} {
		if got := share(n); got != want {
			t.Errorf("%d connections: %d bytes each, want %d", n, got, want)
		}
	}
	for n := int32(1); n < 1000; n++ {
		if share(n+1) > share(n) {
			t.Errorf("the share of one of %d is larger than of one of %d", n+1, n)
		}
		if all := int64(n) * share(n); n <= flightBudget/minFlight && all > flightBudget {
			t.Errorf("%d connections have %d bytes", n, all)
		}
	}
}

// account stands for a connection's endpoint: of that, flights knows its buffer.
type account struct {
	tcpip.Endpoint
	options tcpip.SocketOptions
	full    atomic.Bool
	queue   atomic.Int64 // bytes that wait to be read
}

type accountHandler struct {
	tcpip.DefaultSocketOptionsHandler
}

func newAccount() *account {
	a := new(account)
	limits := func(tcpip.StackHandler) tcpip.SendBufferSizeOption {
		return tcpip.SendBufferSizeOption{Min: tcpBufferMin, Default: tcpBufferInit, Max: tcpSendMax}
	}
	a.options.InitHandler(&accountHandler{}, nil, limits, nil)
	return a
}

func (a *account) SocketOptions() *tcpip.SocketOptions { return &a.options }

func (a *account) GetSockOptInt(tcpip.SockOptInt) (int, tcpip.Error) { return int(a.queue.Load()), nil }

func (a *account) Readiness(mask waiter.EventMask) waiter.EventMask {
	if a.full.Load() {
		return 0
	}
	return mask
}

func TestFlights(t *testing.T) {
	bubble := func(name string, f func(t *testing.T, all *flights, of *identity)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all flights
				f(t, &all, new(identity))
				all.close()
			})
		})
	}
	add := func(all *flights, of *identity) (*flight, *account) {
		a := newAccount()
		return all.add(a, of), a
	}
	epochs := func(n int) {
		time.Sleep(time.Duration(n)*flightEpoch + time.Millisecond)
		synctest.Wait()
	}
	want := func(t *testing.T, of *identity, moving int32, sizes map[*flight]int64) {
		t.Helper()
		if got := of.moving.Load(); got != moving {
			t.Errorf("%d are moving data, want %d", got, moving)
		}
		for f, size := range sizes {
			if got := f.ep.SocketOptions().GetSendBufferSize(); got != size {
				t.Errorf("a share of %d, want %d", got, size)
			}
		}
	}

	bubble("a new connection has little", func(t *testing.T, all *flights, of *identity) {
		f, _ := add(all, of)
		f.write(busyBytes)
		want(t, of, 0, map[*flight]int64{f: minFlight})
		f.write(1)
		want(t, of, 1, map[*flight]int64{f: tcpSendMax})
	})
	bubble("shares follow", func(t *testing.T, all *flights, of *identity) {
		f, _ := add(all, of)
		g, _ := add(all, of)
		other := new(identity)
		h, _ := add(all, other)
		for _, f := range []*flight{f, g, h} {
			f.write(busyBytes + 1)
		}
		f.write(1)
		want(t, of, 2, map[*flight]int64{f: 4 << 20, g: 4 << 20})
		want(t, other, 1, map[*flight]int64{h: tcpSendMax})
		epochs(1)
		g.write(busyBytes + 1)
		epochs(1) // f has been idle for one
		g.write(1)
		want(t, of, 1, map[*flight]int64{g: tcpSendMax})
	})
	bubble("little by little does not count", func(t *testing.T, all *flights, of *identity) {
		f, _ := add(all, of)
		for range 1000 {
			f.write(busyBytes / 10)
			time.Sleep(flightEpoch / 5)
			if of.moving.Load() != 0 {
				t.Fatal("counts")
			}
		}
	})
	bubble("much at once counts after a rest", func(t *testing.T, all *flights, of *identity) {
		f, _ := add(all, of)
		epochs(100)
		f.write(busyBytes + 1)
		want(t, of, 1, map[*flight]int64{f: tcpSendMax})
		epochs(100)
		want(t, of, 0, nil)
		for range 3 * busyBytes / 1024 {
			f.write(1024)
		}
		want(t, of, 1, map[*flight]int64{f: tcpSendMax})
	})
	bubble("who is stuck counts", func(t *testing.T, all *flights, of *identity) {
		f, a := add(all, of)
		a.full.Store(true)
		f.write(busyBytes + 1)
		epochs(100)
		want(t, of, 1, nil)
		a.full.Store(false) // as when it is closed
		epochs(1)
		want(t, of, 0, nil)
		if len(all.busy) != 0 {
			t.Errorf("%d are kept", len(all.busy))
		}
	})
	bubble("closed", func(t *testing.T, all *flights, of *identity) {
		f, _ := add(all, of)
		f.write(busyBytes + 1)
		all.close()
		g, _ := add(all, of)
		g.write(busyBytes + 1)
		epochs(10)
		if len(all.busy) != 1 || all.sweeper.Stop() {
			t.Error("goes on")
		}
	})
}

// What waits for a peer that acknowledges nothing is bounded, and freed when it
// is put out.
func TestFlightToSilentPeer(t *testing.T) {
	t.Parallel()
	a, b := newForeign(t, 2), newForeign(t, 3)
	d := started(t, nil, peers(a, b))
	a.join(d)
	b.join(d)
	a.listen(80, func(c net.Conn) { <-t.Context().Done() })
	const writers = 64
	var conns []net.Conn
	for range writers {
		conns = append(conns, dialPeer(t, d, "tcp", a.addr, 80))
	}
	a.wg.RemoveAllPeers() // it hears nothing any more
	var written atomic.Int64
	var running sync.WaitGroup
	chunk := make([]byte, 32<<10)
	for _, c := range conns {
		running.Go(func() {
			for {
				n, err := c.Write(chunk)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	// All connections are stuck when the sum stands still.
	last, since := int64(-1), time.Now()
	eventually(t, "standstill", func() bool {
		if now := written.Load(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	// One alone has tcpSendMax, the second half of the budget, and so on: who
	// came early may keep what it has.
	const most = tcpSendMax + 4*flightBudget + writers*minFlight
	if n := written.Load(); n > most || n < writers*minFlight/2 {
		t.Errorf("%d MiB wait, at most %d may", n>>20, most>>20)
	}
	b.listen(80, echo)
	exchange(t, dialPeer(t, d, "tcp", b.addr, 80), make([]byte, 1<<20))

	of := d.table.Load().lookup(netip.MustParseAddr("10.8.0.2")).identity
	if of.moving.Load() == 0 {
		t.Error("who is stuck does not count")
	}
	apply(t, d, peers(b))
	running.Wait()
	eventually(t, "end of shares", func() bool {
		d.flights.mu.Lock()
		defer d.flights.mu.Unlock()
		return of.moving.Load() == 0
	})
}
