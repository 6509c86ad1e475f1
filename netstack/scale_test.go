package netstack

import (
	"runtime"
	"testing"
	"time"
)

// Peers that are configured but not there cost memory only, and little of it.
func TestIdlePeersCostLittle(t *testing.T) {
	const n = 10_000
	d := newServer(t, nil)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	f := newForeign(t, 2)
	list := manyPeers(n)
	before, routines := heap(), runtime.NumGoroutine()
	apply(t, d, Config{Peers: list})
	after := heap()
	const perPeer = 4 << 10
	if used := int64(after) - int64(before); used > n*perPeer {
		t.Errorf("%d peers hold %d KiB", n, used>>10)
	} else {
		t.Logf("%d peers hold %d KiB", n, used>>10)
	}
	if more := runtime.NumGoroutine() - routines; more > 10 {
		t.Errorf("%d more goroutines", more)
	}
	list[n/2] = f.config()
	begin := time.Now()
	apply(t, d, Config{Peers: list})
	t.Logf("one peer exchanged in %s", time.Since(begin))
	f.join(d)
	f.listen(80, echo)
	exchange(t, dialPeer(t, d, "tcp", f.addr, 80), []byte("one of many"))
	runtime.KeepAlive(list)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
