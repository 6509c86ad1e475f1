package netstack

import (
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestIntakes(t *testing.T) {
	bubble := func(name string, f func(t *testing.T, all *intakes)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, new(intakes)) }) })
	}
	want := func(t *testing.T, w *intake, size int64) {
		t.Helper()
		if got := w.ep.SocketOptions().GetReceiveBufferSize(); got != size {
			t.Errorf("%d KiB, want %d", got>>10, size>>10)
		}
	}
	// fill has w read so much in no time that it gets the largest window.
	fill := func(w *intake) {
		for range 4 * tcpReceiveMax / (32 << 10) {
			w.read(32 << 10)
		}
	}
	add := func(all *intakes) (*intake, *account) {
		a := newAccount()
		return all.add(a), a
	}
	bubble("who reads fast gets more", func(t *testing.T, all *intakes) {
		w, _ := add(all)
		want(t, w, intakeFirst)
		w.read(intakeFirst/2 - 1)
		want(t, w, intakeFirst)
		w.read(1)
		want(t, w, 2*intakeFirst)
		fill(w)
		want(t, w, tcpReceiveMax)
	})
	bubble("who reads slowly does not", func(t *testing.T, all *intakes) {
		w, _ := add(all)
		for range 1000 {
			time.Sleep(intakeTime/2 + time.Millisecond)
			w.read(intakeFirst / 4)
		}
		want(t, w, intakeFirst)
		w.read(intakeFirst) // at once, after a long time
		want(t, w, 2*intakeFirst)
	})
	bubble("the budget holds, and there is some for the next", func(t *testing.T, all *intakes) {
		const many = 200
		var list []*intake
		for i := range many {
			w, _ := add(all)
			fill(w)
			list = append(list, w)
			if got := w.size; i < 2 && got != tcpReceiveMax || i < 10 && got < 4*intakeFirst {
				t.Errorf("%d KiB for number %d", got>>10, i)
			}
		}
		var sum int64
		for _, w := range list {
			sum += w.ep.SocketOptions().GetReceiveBufferSize() - intakeFirst
		}
		if sum != all.taken || sum > intakeBudget {
			t.Errorf("%d MiB beyond the first, %d are counted", sum>>20, all.taken>>20)
		}
		for _, w := range list {
			w.close()
			w.close()
			w.read(tcpReceiveMax)
		}
		if all.taken != 0 || len(all.wide) != 0 {
			t.Errorf("%d MiB and %d intakes are left when all are closed", all.taken>>20, len(all.wide))
		}
	})
	bubble("who has stopped makes room", func(t *testing.T, all *intakes) {
		reader, _ := add(all)
		fill(reader)
		holds, held := add(all)
		held.queue.Store(intakeFirst)
		fill(holds)
		var stopped []*intake
		for range 100 {
			w, _ := add(all)
			fill(w)
			stopped = append(stopped, w)
		}
		for range 3 {
			w, _ := add(all)
			fill(w) // asks in vain
			w.close()
			time.Sleep(intakeEpoch)
			reader.read(intakeFirst)
		}
		late, _ := add(all)
		fill(late)
		want(t, late, tcpReceiveMax)
		want(t, reader, tcpReceiveMax)
		want(t, holds, 3*intakeFirst)
		for _, w := range stopped {
			want(t, w, intakeFirst)
		}
	})
}

// What a peer sends of which nothing is read stays with it, but for a window of each
// connection, and others are served.
func TestUnreadIntake(t *testing.T) {
	t.Parallel()
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	var sent atomic.Int64
	a.listen(80, func(c net.Conn) {
		for piece := make([]byte, 32<<10); ; {
			n, err := c.Write(piece)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	a.listen(81, echo)
	const stuck = 32
	var conns []*tcpConn
	for range stuck {
		conns = append(conns, dialPeer(t, d, "tcp", a.addr, 80).(*tcpConn))
	}
	last, since := int64(-1), time.Now()
	eventually(t, "standstill with something to read on all", func() bool {
		if now := sent.Load(); now != last {
			last, since = now, time.Now()
		}
		waiting := !slices.ContainsFunc(conns, func(c *tcpConn) bool { return c.Buffered() == 0 })
		return waiting && time.Since(since) > 300*time.Millisecond
	})
	for _, c := range conns {
		if n := c.Buffered(); n > intakeFirst/2 {
			t.Errorf("%d KiB wait to be read", n>>10)
		}
	}
	exchange(t, dialPeer(t, d, "tcp", a.addr, 81), make([]byte, 1<<20))

	// One that is read after all goes on, and its window grows.
	if _, err := io.CopyN(io.Discard, conns[0], 8<<20); err != nil {
		t.Fatal(err)
	}
	if got := conns[0].flight.ep.SocketOptions().GetReceiveBufferSize(); got <= intakeFirst {
		t.Errorf("a buffer of %d KiB", got>>10)
	}
}
