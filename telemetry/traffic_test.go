package telemetry

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tunnel is what the device would say.
type tunnel struct {
	db     *store.DB
	now    time.Time
	status []model.PeerStatus
	peers  []model.PeerID
}

func newTunnel(t *testing.T, peers int) *tunnel {
	t.Helper()
	u := &tunnel{db: storetest.Open(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	if err := u.db.Update(t.Context(), func(tx *store.Tx) error {
		for i := range peers {
			p := &model.Peer{
				Name: string(rune('a' + i)), PublicKey: model.PublicKey{byte(i + 1)},
				AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, 0, byte(i + 2)}), 32)},
			}
			if err := store.Peers.Insert(tx, p); err != nil {
				return err
			}
			u.peers = append(u.peers, p.ID)
			u.status = append(u.status, model.PeerStatus{PublicKey: p.PublicKey})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *tunnel) traffic() *Traffic {
	return NewTraffic(TrafficOptions{
		DB: u.db, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return u.now }, Interval: time.Minute,
		Status: func() []model.PeerStatus { return u.status },
	})
}

func (u *tunnel) counters(t *testing.T, id model.PeerID) (c model.PeerCounters) {
	t.Helper()
	if err := u.db.View(func(tx *store.Tx) error {
		got, err := store.Counters.Get(tx, id)
		if got != nil {
			c = *got
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

func sample(t *testing.T, tr *Traffic) {
	t.Helper()
	if err := tr.Sample(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDeltasSumsAndRates(t *testing.T) {
	u := newTunnel(t, 2)
	tr := u.traffic()
	u.status[0].RxBytes, u.status[0].TxBytes = 100, 1000
	sample(t, tr)
	u.now = u.now.Add(10 * time.Second)
	u.status[0].RxBytes, u.status[1].TxBytes = 150, 70
	sample(t, tr)
	sum, rate := tr.Today()
	if sum.DownloadBytes != 150 || sum.UploadBytes != 1070 || rate != (Rate{Upload: 7, Download: 5}) {
		t.Errorf("today %+v, rate %+v", sum, rate)
	}
	if c := u.counters(t, u.peers[0]); c.TotalRx != 150 || c.TotalTx != 1000 {
		t.Errorf("sums of the first peer: %+v", c)
	}
	if c := u.counters(t, u.peers[1]); c.TotalRx != 0 || c.TotalTx != 70 {
		t.Errorf("sums of the second peer: %+v", c)
	}
}

// TestCountersThatStartOver restarts the device, which counts from 0 again, and
// then the whole server.
func TestCountersThatStartOver(t *testing.T) {
	u := newTunnel(t, 1)
	tr := u.traffic()
	u.status[0].RxBytes = 100
	sample(t, tr)
	u.now = u.now.Add(time.Minute)
	u.status[0].RxBytes = 30
	sample(t, tr)
	if c := u.counters(t, u.peers[0]); c.TotalRx != 130 {
		t.Errorf("after a restart of the device: %+v", c)
	}

	u.now = u.now.Add(time.Minute)
	u.status[0].RxBytes = 0
	again := u.traffic()
	if err := again.loadToday(); err != nil {
		t.Fatal(err)
	}
	if sum, _ := again.Today(); sum.DownloadBytes != 130 {
		t.Errorf("after a restart of the server: %+v", sum)
	}
	u.status[0].RxBytes = 5
	sample(t, again)
	if c := u.counters(t, u.peers[0]); c.TotalRx != 135 {
		t.Errorf("after a restart of the server: %+v", c)
	}
}

// TestTrafficWhileTheStoreRefuses keeps what a full disk did not take for when
// there is room.
func TestTrafficWhileTheStoreRefuses(t *testing.T) {
	u := newTunnel(t, 2)
	tr := u.traffic()
	refused, cancel := context.WithCancel(t.Context())
	cancel() // any write fails
	shake := u.now
	for range 2 {
		u.now = u.now.Add(time.Minute)
		u.status[0].RxBytes += 100
		u.status[0].LastHandshake = shake
		if err := tr.Sample(refused); err == nil {
			t.Fatal("no error")
		}
	}
	u.now = u.now.Add(time.Minute)
	u.status[0].RxBytes += 5
	u.status[1].TxBytes += 7
	sample(t, tr)
	sample(t, tr)
	if c := u.counters(t, u.peers[0]); c.TotalRx != 205 || !c.LastHandshake.Equal(shake) {
		t.Errorf("sums of the first peer: %+v", c)
	}
	if c := u.counters(t, u.peers[1]); c.TotalTx != 7 {
		t.Errorf("sums of the second peer: %+v", c)
	}
	if sum, _ := tr.Today(); sum.DownloadBytes != 205 || sum.UploadBytes != 7 {
		t.Errorf("today: %+v", sum)
	}
}

func TestTodayEndsAtMidnight(t *testing.T) {
	u := newTunnel(t, 1)
	u.now = time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	tr := u.traffic()
	u.status[0].TxBytes = 100
	sample(t, tr)
	u.now = u.now.Add(2 * time.Minute)
	if sum, _ := tr.Today(); sum.UploadBytes != 0 {
		t.Errorf("yesterday is in today: %+v", sum)
	}
	u.status[0].TxBytes = 110
	sample(t, tr)
	if sum, _ := tr.Today(); sum.UploadBytes != 10 {
		t.Errorf("today: %+v", sum)
	}
}

func TestTrafficOfADeletedPeer(t *testing.T) {
	u := newTunnel(t, 1)
	if err := u.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := store.Peers.Delete(tx, u.peers[0])
		return err
	}); err != nil {
		t.Fatal(err)
	}
	u.status[0].TxBytes = 100
	tr := u.traffic()
	sample(t, tr)
	if c := u.counters(t, u.peers[0]); !reflect.DeepEqual(c, model.PeerCounters{}) {
		t.Errorf("sums without a peer: %+v", c)
	}
	if sum, _ := tr.Today(); sum.UploadBytes != 100 {
		t.Errorf("today: %+v", sum)
	}
}

// TestReadingsBetweenSamples reads more often than it stores: nothing is counted
// twice, and what is not stored yet can be asked for.
func TestReadingsBetweenSamples(t *testing.T) {
	u := newTunnel(t, 2)
	tr := u.traffic()
	key := u.status[0].PublicKey
	sample(t, tr)
	for range 3 {
		u.now = u.now.Add(2 * time.Second)
		u.status[0].RxBytes += 100
		u.status[0].RxPackets += 2
		u.status[0].TxBytes += 10
		u.status[0].TxPackets++
		tr.Read()
		tr.Read()
	}
	d := tr.Unsaved(key)
	if d.RxBytes != 300 || d.RxPackets != 6 || d.TxBytes != 30 || d.TxPackets != 3 || d.Months.In("2026-03") != 330 {
		t.Errorf("not stored yet: %+v", d)
	}
	if c := u.counters(t, u.peers[0]); c.TotalRx != 0 {
		t.Errorf("a reading was stored: %+v", c)
	}
	u.status = u.status[1:] // it leaves the tunnel; what it moved stays
	sample(t, tr)
	c := u.counters(t, u.peers[0])
	if c.TotalRx != 300 || c.TotalTx != 30 || c.TotalRxPackets != 6 || c.TotalTxPackets != 3 || c.Months.In("2026-03") != 330 {
		t.Errorf("stored: %+v", c)
	}
	if d := tr.Unsaved(key); d.RxBytes != 0 || d.Months != nil {
		t.Errorf("still owed: %+v", d)
	}
	if sum, rate := tr.Today(); sum.DownloadBytes != 300 || rate.Download != 50 {
		t.Errorf("today %+v, rate %+v", sum, rate)
	}
}

// TestUsageOfTheMonth goes over the end of a month, back by a day, restarts, and
// goes on: each byte counts once, in the month that the clock showed.
func TestUsageOfTheMonth(t *testing.T) {
	u := newTunnel(t, 1)
	tr := u.traffic()
	move := func(at string, bytes uint64, store bool) {
		t.Helper()
		var err error
		if u.now, err = time.Parse(time.DateTime, at); err != nil {
			t.Fatal(err)
		}
		u.status[0].RxBytes += bytes
		if tr.Read(); store {
			sample(t, tr)
		}
	}
	move("2026-11-30 23:59:00", 1, true)
	move("2026-11-30 23:59:58", 2, false)
	move("2026-12-01 00:00:00", 4, false) // one share over two months
	move("2026-12-01 00:00:30", 8, true)
	move("2026-11-30 00:00:30", 16, true)
	u.status[0].RxBytes = 0 // the device starts over with the process
	tr = u.traffic()
	move("2026-11-30 12:00:00", 32, true)
	move("2026-12-01 00:00:40", 64, true)
	c := u.counters(t, u.peers[0])
	if c.Months.In("2026-11") != 1+2+16+32 || c.Months.In("2026-12") != 4+8+64 || c.TotalRx != 127 {
		t.Errorf("%+v", c)
	}
}

// TestCountsWhileOthersRead has readings and samples at the same time, as the
// look at quotas and the minute's sample are: no byte is lost or counted twice,
// and inside a write transaction the stored and the unsaved part are all of it.
func TestCountsWhileOthersRead(t *testing.T) {
	u := newTunnel(t, 1)
	var moved atomic.Uint64
	tr := NewTraffic(TrafficOptions{
		DB: u.db, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return u.now }, Interval: time.Minute,
		Status: func() []model.PeerStatus {
			return []model.PeerStatus{{PublicKey: u.status[0].PublicKey, RxBytes: moved.Add(1)}}
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			tr.Read()
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := tr.Sample(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for range 100 {
		if err := u.db.Update(t.Context(), func(tx *store.Tx) error {
			c, err := store.Counters.Get(tx, u.peers[0])
			if err != nil || c == nil {
				return err
			}
			low := c.Months.In("2026-03") + tr.Unsaved(u.status[0].PublicKey).Months.In("2026-03")
			if high := moved.Load(); low > high {
				t.Errorf("counted %d of %d", low, high)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	sample(t, tr)
	if c := u.counters(t, u.peers[0]); c.TotalRx != moved.Load() || c.Months.In("2026-03") != c.TotalRx {
		t.Errorf("%d bytes moved, counted %+v", moved.Load(), c)
	}
}

func TestOldSamplesGo(t *testing.T) {
	u := newTunnel(t, 1)
	old := u.now.Add(-trafficRetention - time.Hour)
	if err := u.db.UpdateHistory(func(tx *store.Tx) error {
		return store.Traffic.Append(tx, old, &model.TrafficSample{At: old})
	}); err != nil {
		t.Fatal(err)
	}
	u.status[0].TxBytes = 1
	sample(t, u.traffic())
	n := 0
	if err := u.db.ViewHistory(func(tx *store.Tx) error {
		for _, err := range store.Traffic.Between(tx, time.Time{}, u.now.Add(time.Hour)) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	}); err != nil || n != 1 {
		t.Errorf("%d samples are kept, %v; want 1", n, err)
	}
}

// TestMemories restarts the server with a clock that is right, and with one that
// was set back.
func TestMemories(t *testing.T) {
	u := newTunnel(t, 3)
	here := netip.MustParseAddrPort("192.0.2.7:51820")
	for i := range u.status {
		u.status[i].RxBytes, u.status[i].LastHandshake, u.status[i].Endpoint = 100, u.now, here
		u.status[i].Stamped = u.now.Add(-time.Minute)
	}
	u.status[1].LastHandshake = u.now.Add(-2 * time.Hour)
	u.status[2].Endpoint = netip.AddrPort{}
	u.status[2].Stamped = time.Time{}
	tr := u.traffic()
	sample(t, tr)
	want := func(want map[model.PublicKey]model.PeerMemory) {
		t.Helper()
		got, err := u.traffic().Memories(u.now.Add(-time.Hour))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	first, second := u.status[0].PublicKey, u.status[1].PublicKey
	want(map[model.PublicKey]model.PeerMemory{first: {Endpoint: here}})

	// What a run with another clock adds is not less.
	stamped := u.status[0].Stamped
	u.now = u.now.AddDate(-1, 0, 0)
	u.status[0].RxBytes, u.status[0].LastHandshake, u.status[0].Stamped = 200, u.now, u.now
	sample(t, tr)
	want(map[model.PublicKey]model.PeerMemory{first: {Endpoint: here, Stamped: stamped}, second: {Endpoint: here, Stamped: stamped}})
}
