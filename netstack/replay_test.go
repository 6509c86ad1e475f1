package netstack

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab/relay"
)

// A datagram in the tunnel arrives once however often it is replayed, and as it
// was sent or not at all.
func datagramsArriveOnce(t *testing.T) {
	cases := make(map[string]func(*testing.T))
	for name, path := range map[string]relay.Path{
		"replayed":               {Duplicate: 1, Reorder: 0.5},
		"replayed and corrupted": {Duplicate: 0.5, Corrupt: 0.5, Reorder: 0.2},
		"replayed and delayed":   {Duplicate: 1, Delay: 5 * time.Millisecond},
	} {
		cases[name] = func(t *testing.T) {
			a := newForeign(t, 2)
			d := started(t, nil, peers(a))
			r := a.joinBy(d, path)
			atServer, err := d.ListenPacket(5000)
			if err != nil {
				t.Fatal(err)
			}
			atPeer, err := a.net.ListenUDP(&net.UDPAddr{Port: 5000})
			if err != nil {
				t.Fatal(err)
			}
			t.Run("to the server", func(t *testing.T) { sendPages(t, r, a.mustDial("udp", "10.8.0.1:5000"), atServer) })
			t.Run("to the peer", func(t *testing.T) { sendPages(t, r, dialPeer(t, d, "udp", a.addr, 5000), atPeer) })
			for way, c := range ways(r) {
				if c.Duplicated < pages/4 || path.Corrupt > 0 && c.Corrupted < pages/4 {
					t.Errorf("%s the relay did not do its worst: %+v", way, c)
				}
			}
		}
	}
	together(t, cases)
}

// pages is how many datagrams sendPages sends, and pagesAway how many of them
// may be away at once, fewer than any buffer holds.
const (
	pages     = 1000
	pagesAway = 32
)

func sendPages(t *testing.T, r *relay.Relay, from net.Conn, to net.PacketConn) {
	t.Helper()
	got := newLedger(to)
	t.Cleanup(got.close)
	up, down := r.Counts()
	before := up.Corrupted + down.Corrupted
	excused := func() int64 {
		up, down := r.Counts()
		return int64(up.Corrupted + down.Corrupted - before)
	}
	for i := range uint64(pages) {
		if _, err := from.Write(page(i)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "room", func() bool { return int64(i)-got.seen.Load()-excused() < pagesAway })
	}
	eventually(t, "arrival of all", func() bool {
		up, down := r.Counts()
		return got.seen.Load()+excused() >= pages && up.Waiting+down.Waiting == 0
	})
	exchangeDatagram(t, from, []byte("the last")) // behind all others
	if missing := pages - got.seen.Load(); got.twice.Load() != 0 || got.wrong.Load() != 0 || missing > excused() {
		t.Errorf("of %d datagrams %d are missing, %d came again, %d were others; %d were corrupted on the way",
			pages, missing, got.twice.Load(), got.wrong.Load(), excused())
	}
}

// page is a datagram that tells whether it is what was sent.
func page(number uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, number)
	sum := sha256.Sum256(b)
	return append(append(b, sum[:]...), make([]byte, number%500)...)
}

// ledger notes which pages came. It answers everything shorter with itself.
type ledger struct {
	conn               net.PacketConn
	seen, twice, wrong atomic.Int64
	done               chan struct{}
}

func newLedger(conn net.PacketConn) *ledger {
	l := &ledger{conn: conn, done: make(chan struct{})}
	go l.read() // ends with close
	return l
}

func (l *ledger) close() {
	_ = l.conn.Close()
	<-l.done
}

func (l *ledger) read() {
	defer close(l.done)
	seen := make(map[uint64]bool)
	buf := make([]byte, 65535)
	for {
		n, from, err := l.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if n < 8+sha256.Size {
			_, _ = l.conn.WriteTo(buf[:n], from)
			continue
		}
		number := binary.BigEndian.Uint64(buf)
		switch {
		case number >= pages || string(page(number)) != string(buf[:n]):
			l.wrong.Add(1)
		case seen[number]:
			l.twice.Add(1)
		default:
			seen[number] = true
			l.seen.Add(1)
		}
	}
}
