package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// arrival is a datagram that came through a line.
type arrival struct {
	at     time.Duration
	number uint64
	data   []byte
}

// throughLine runs f on a line in a time of its own, waits until the line is
// empty, and returns what came through it.
func throughLine(t *testing.T, path Path, seed uint64, f func(*line)) (list []arrival, c Counts) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		l := newLine(started, path, seed, 0, func(_ *client, b []byte) error {
			list = append(list, arrival{time.Since(started), binary.BigEndian.Uint64(b[1:]), bytes.Clone(b)})
			return nil
		})
		stop := make(chan struct{})
		var owned sync.WaitGroup
		owned.Go(func() { l.run(stop) })
		f(l)
		for l.read().Waiting > 0 {
			time.Sleep(time.Millisecond) // of the bubble's time
		}
		close(stop)
		owned.Wait()
		c = l.read()
	})
	if c.Received+c.Duplicated != c.Sent+c.Lost+c.Overflowed+c.Blackholed+c.Failed || int(c.Sent) != len(list) {
		t.Errorf("seed %d: %d came through, counts do not add up: %+v", seed, len(list), c)
	}
	return list, c
}

// numbered returns a datagram of a type that carries its number.
func numbered(kind byte, number uint64, size int) []byte {
	b := bytes.Repeat([]byte{byte(number)}, size)
	b[0] = kind
	binary.BigEndian.PutUint64(b[1:], number)
	return b
}

func putMany(l *line, n int, gap time.Duration) {
	for i := range n {
		l.put(nil, numbered(transport, uint64(i), 100))
		time.Sleep(gap)
	}
}

func inOrder(list []arrival) bool {
	return slices.IsSortedFunc(list, func(a, b arrival) int { return int(a.number) - int(b.number) })
}

func TestLinePerfect(t *testing.T) {
	list, c := throughLine(t, Path{}, 1, func(l *line) { putMany(l, 1000, 0) })
	if len(list) != 1000 || !inOrder(list) || c != (Counts{Received: 1000, Sent: 1000}) {
		t.Errorf("%d came through, in order %v, %+v", len(list), inOrder(list), c)
	}
}

func TestLineDelay(t *testing.T) {
	list, _ := throughLine(t, Path{Delay: 25 * time.Millisecond}, 1, func(l *line) { putMany(l, 100, time.Millisecond) })
	for i, a := range list {
		if want := time.Duration(i)*time.Millisecond + 25*time.Millisecond; a.at != want || a.number != uint64(i) {
			t.Fatalf("datagram %d came as number %d after %s, want %s", a.number, i, a.at, want)
		}
	}
}

func TestLineKeepsOrder(t *testing.T) {
	for name, path := range map[string]Path{
		"jitter":          {Delay: time.Millisecond, Jitter: 20 * time.Millisecond},
		"loss":            {Loss: 0.3},
		"corrupt":         {Delay: time.Millisecond, DataOnly: true},
		"rate":            {Rate: 1 << 20, Queue: 1 << 20, Jitter: time.Millisecond},
		"duplicate twins": {Duplicate: 1},
	} {
		t.Run(name, func(t *testing.T) {
			list, _ := throughLine(t, path, rand.Uint64(), func(l *line) { putMany(l, 2000, 100*time.Microsecond) })
			if len(list) == 0 || !inOrder(list) {
				t.Error("out of order")
			}
			for _, a := range list {
				if late := a.at - time.Duration(a.number)*100*time.Microsecond; late < path.Delay {
					t.Fatalf("datagram %d took %s", a.number, late)
				}
			}
		})
	}
	t.Run("a delay that shrinks", func(t *testing.T) {
		list, _ := throughLine(t, Path{Delay: time.Second}, 1, func(l *line) {
			l.put(nil, numbered(transport, 0, 100))
			l.set(Path{})
			l.put(nil, numbered(transport, 1, 100))
		})
		if len(list) != 2 || !inOrder(list) || list[1].at != time.Second {
			t.Errorf("%+v", list)
		}
	})
}

// The share of each impairment is what was asked for, within what chance allows:
// of 10,000 draws at 20 %, 2,000 with a standard deviation of 40.
func TestLineShares(t *testing.T) {
	const n, least, most = 10_000, 1700, 2300
	within := func(t *testing.T, what string, got uint64) {
		t.Helper()
		if got < least || got > most {
			t.Errorf("%d %s, want about 2000", got, what)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	all := func(l *line) { putMany(l, n, 10*time.Microsecond) }

	t.Run("loss", func(t *testing.T) {
		list, c := throughLine(t, Path{Loss: 0.2}, seed, all)
		within(t, "lost", c.Lost)
		if len(list) != n-int(c.Lost) || !inOrder(list) {
			t.Errorf("%d came through", len(list))
		}
	})
	t.Run("reorder", func(t *testing.T) {
		list, c := throughLine(t, Path{Reorder: 0.2}, seed, all)
		within(t, "reordered", c.Reordered)
		overtaken, seen := uint64(0), make(map[uint64]bool)
		for i, a := range list {
			if i > 0 && a.number < list[i-1].number {
				overtaken++
			}
			seen[a.number] = true
			if late := a.at - time.Duration(a.number)*10*time.Microsecond; late > maxHold {
				t.Fatalf("held for %s", late)
			}
		}
		if len(seen) != n || overtaken < least/2 {
			t.Errorf("%d came through, %d out of order", len(seen), overtaken)
		}
	})
	t.Run("duplicate", func(t *testing.T) {
		list, c := throughLine(t, Path{Duplicate: 0.2}, seed, all)
		within(t, "duplicated", c.Duplicated)
		if len(list) != n+int(c.Duplicated) {
			t.Errorf("%d came through", len(list))
		}
	})
	t.Run("corrupt", func(t *testing.T) {
		list, c := throughLine(t, Path{Corrupt: 0.2}, seed, all)
		within(t, "corrupted", c.Corrupted)
		changed := uint64(0)
		for i, a := range list {
			if want := numbered(transport, uint64(i), 100); !bytes.Equal(a.data, want) {
				changed++
				if n := differentBits(a.data, want); n != 1 {
					t.Fatalf("%d bits are different", n)
				}
			}
		}
		if changed != c.Corrupted {
			t.Errorf("%d are changed, %d counted", changed, c.Corrupted)
		}
	})
}

func differentBits(a, b []byte) (n int) {
	for i := range a {
		for x := a[i] ^ b[i]; x != 0; x &= x - 1 {
			n++
		}
	}
	return n
}

// The same seed makes the same decisions.
func TestLineRepeats(t *testing.T) {
	path := Path{Loss: 0.1, Reorder: 0.1, Duplicate: 0.1, Corrupt: 0.1, Jitter: time.Millisecond}
	run := func() []arrival {
		list, _ := throughLine(t, path, 7, func(l *line) { putMany(l, 500, time.Microsecond) })
		return list
	}
	same := func(a, b arrival) bool { return a.at == b.at && bytes.Equal(a.data, b.data) }
	if a, b := run(), run(); !slices.EqualFunc(a, b, same) {
		t.Error("two runs differ")
	}
}

func TestLineDataOnly(t *testing.T) {
	for kind := byte(1); kind <= 4; kind++ {
		list, _ := throughLine(t, Path{Loss: 1, DataOnly: true}, 1, func(l *line) { l.put(nil, numbered(kind, 1, 100)) })
		if (len(list) == 1) != (kind != transport) {
			t.Errorf("of a message of type %d, %d came through", kind, len(list))
		}
	}
}

// A full queue drops its tail, and what passes takes the time that Rate says.
func TestLineRate(t *testing.T) {
	list, c := throughLine(t, Path{Rate: 100_000, Queue: 10_000, Delay: time.Second}, 1, func(l *line) { putMany(l, 150, 0) })
	if len(list) != 100 || c.Overflowed != 50 || !inOrder(list) {
		t.Fatalf("%d of 150 came through, %+v", len(list), c)
	}
	for i, a := range list {
		if want := time.Second + time.Duration(i+1)*time.Millisecond; (a.at - want).Abs() > time.Microsecond {
			t.Fatalf("datagram %d came after %s, want %s", i, a.at, want)
		}
	}
}

func TestLineIsBounded(t *testing.T) {
	const n = maxWaiting/usualSize + 1000
	list, c := throughLine(t, Path{Delay: time.Second}, 1, func(l *line) { putMany(l, n, 0) })
	if c.Overflowed < 1000 || len(list) < n/2 {
		t.Errorf("%d of %d came through, %+v", len(list), n, c)
	}
}

func TestLineDark(t *testing.T) {
	list, c := throughLine(t, Path{}, 1, func(l *line) {
		l.put(nil, numbered(transport, 0, 100))
		l.darken(true)
		l.put(nil, numbered(transport, 1, 100))
		l.darken(false)
		l.put(nil, numbered(transport, 2, 100))
	})
	if len(list) != 2 || list[1].number != 2 || c.Blackholed != 1 {
		t.Errorf("%+v, %+v", list, c)
	}
}

func TestLineCountsFailures(t *testing.T) {
	l := newLine(time.Now(), Path{}, 1, 0, nil)
	l.put(nil, numbered(transport, 0, 100))
	batch, _ := l.take(nil)
	l.sent(batch[0].data, errors.New("no buffer space"))
	if c := l.read(); c.Failed != 1 || c.Waiting != 0 || l.waiting != 0 {
		t.Errorf("%+v", c)
	}
}

func TestPathCheck(t *testing.T) {
	nan := 0.0
	nan /= nan
	for name, p := range map[string]Path{
		"probability over 1": {Loss: 1.01}, "negative probability": {Corrupt: -0.1}, "no number": {Reorder: nan},
		"negative delay": {Delay: -1}, "negative jitter": {Jitter: -1}, "negative rate": {Rate: -1}, "negative queue": {Queue: -1},
	} {
		if p.check() == nil {
			t.Errorf("%s passes", name)
		}
	}
	if err := (Path{Loss: 1, Duplicate: 1, Delay: time.Hour}).check(); err != nil {
		t.Error(err)
	}
}
