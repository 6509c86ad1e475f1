package wireguard

import (
	"bytes"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

// A thousand peers that talk all at once, among ten thousand that are known: each
// gets every answer, and none costs a goroutine or much memory.
func TestManyActivePeers(t *testing.T) {
	known, active, packets := 10_000, 1000, 50
	if socketRace {
		active, packets = 100, 20 // the clients are slower, not the server
	}
	server := &end{key: model.NewPrivateKey()}
	var err error
	server.Device, err = New(Options{PrivateKey: server.key, MTU: 1420, Receive: func(from *Peer, packets [][]byte) {
		for _, p := range packets { // back to where they came from
			b := from.NewBurst(len(p))
			copy(b.Next(len(p)), p)
			b.Send()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	server.open(t)
	for range known - active {
		if _, err := server.Add(PeerConfig{PublicKey: model.PublicKey(model.NewPrivateKey())}); err != nil { // any bytes are one
			t.Fatal(err)
		}
	}
	clients := make([]*client, active)
	for i := range clients {
		clients[i] = newClient(t, netip.AddrFrom4([4]byte{127, 3, byte(i >> 8), byte(i)}), server)
		if _, err := server.Add(PeerConfig{PublicKey: clients[i].key.Public()}); err != nil {
			t.Fatal(err)
		}
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, routines := memory(), runtime.NumGoroutine()

	var all sync.WaitGroup
	var lost, again atomic.Int64
	began := time.Now()
	for _, c := range clients {
		all.Go(func() {
			if c.greet(t, server, 2*time.Second, 8) == 0 {
				lost.Add(1)
				return
			}
			packet, answer := bytes.Repeat([]byte("sixteen letters."), 75), make([]byte, 2048)
			for range packets {
				for try := 0; ; try++ {
					if try == 20 {
						lost.Add(1)
						return
					}
					_, _ = c.conn.Write(c.sealer(packet))
					_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
					if n, err := c.conn.Read(answer); err == nil && messageType(answer[:n]) == typeData && n == len(packet)+overhead {
						break
					}
					again.Add(1) // loopback loses what does not fit into a socket
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	if lost.Load() > 0 {
		t.Fatalf("%d of %d peers got no answer", lost.Load(), active)
	}
	grown := int64(memory()) - int64(before)
	t.Logf("%d of %d peers, %d packets there and back in %s, %d of them again; %d bytes more for each",
		active, known, active*packets, took.Round(time.Millisecond), again.Load(), grown/int64(active))
	if grown > int64(active)*16<<10 {
		t.Errorf("%d active peers hold %d KiB", active, grown>>10)
	}
	if more := runtime.NumGoroutine() - routines; more > 0 {
		t.Errorf("%d more goroutines", more)
	}
	if n := server.clocked(); n < active {
		t.Errorf("the clock looks at %d peers", n)
	}
}
