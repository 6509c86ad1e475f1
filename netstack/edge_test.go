package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"time"
)

// A connection that both sides write to before they read goes on, over closed
// windows, with a peer whose stack takes windows back as this one does.
func TestBothWaysAtOnce(t *testing.T) {
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	a.listen(80, echo)
	const size = 8 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for range 4 {
		c := dialPeer(t, d, "tcp", a.addr, 80)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		failed := make(chan error, 1)
		go func() {
			var err error
			for rest := data; len(rest) > 0 && err == nil; rest = rest[32<<10:] {
				_, err = c.Write(rest[:32<<10])
			}
			failed <- err
		}()
		got := make([]byte, size)
		if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came back, or others: %v", n, err)
		}
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}

func TestEdges(t *testing.T) {
	seq := func(p []byte) uint32 { return binary.BigEndian.Uint32(p[ipv4Header+4:]) }
	const base = 1<<32 - 50 // numbers wrap around
	for _, c := range []struct {
		name         string
		told         uint16 // window of the side that is written to
		behind, want uint32
		flags        byte
		data         string
	}{
		{"open", 10, 68, 68, flagACK, ""},
		{"at the edge", 0, 0, 0, flagACK, ""},
		{"behind it", 0, 68, 0, flagACK, ""},
		{"a step behind it", 0, maxStep, 0, flagACK, ""},
		{"further than a step", 0, maxStep + 1, maxStep + 1, flagACK, ""},
		{"from before", 0, 1<<32 - 1, 1<<32 - 1, flagACK, ""},
		{"data", 0, 68, 68, flagACK, "data"},
		{"end", 0, 68, 68, flagACK | flagFIN, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWatched(t)
			w.out(t, tcpPacket(true, flagACK, base, 1000, nil, []byte("begin")))
			w.in(window(c.told, tcpPacket(false, flagACK, 1000, base, nil, nil)))
			if got := seq(w.out(t, tcpPacket(true, c.flags, base+c.behind, 1000, nil, []byte(c.data)))); got != base+c.want {
				t.Errorf("the stack's packet is at %d", got-base)
			}

			w = newWatched(t)
			told := window(c.told, tcpPacket(true, flagACK, 1000, base, nil, []byte("begin")))
			clear(told[ipv4Header+16:][:2])
			sum := onesSum(0).add(told[12:20]).word(protoTCP).word(uint16(len(told) - ipv4Header)).add(told[ipv4Header:]).fold()
			binary.BigEndian.PutUint16(told[ipv4Header+16:], ^sum)
			w.out(t, told)
			if got := seq(w.in(tcpPacket(false, c.flags, base+c.behind, 1005, nil, []byte(c.data)))); got != base+c.want {
				t.Errorf("the peer's packet is at %d", got-base)
			}
			if n := w.watched.Load(); n > 0 != (c.told == 0) {
				t.Errorf("%d are watched", n)
			}
		})
	}
}
