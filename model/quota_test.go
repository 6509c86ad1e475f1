package model

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestMonth(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	for _, c := range []struct {
		at   time.Time
		want Month
		end  string
	}{
		{time.Date(2026, 11, 30, 23, 59, 59, 999_999_999, time.UTC), "2026-11", "2026-12-01T00:00:00Z"},
		{time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), "2026-12", "2027-01-01T00:00:00Z"},
		{time.Date(2026, 12, 1, 1, 0, 0, 0, zone), "2026-11", "2026-12-01T00:00:00Z"}, // UTC decides
		{time.Date(2028, 2, 29, 12, 0, 0, 0, time.UTC), "2028-02", "2028-03-01T00:00:00Z"},
	} {
		if m := MonthOf(c.at); m != c.want || m.End().Format(time.RFC3339Nano) != c.end {
			t.Errorf("%s: %s until %s", c.at, m, m.End())
		}
	}
	if !Month("x").End().IsZero() {
		t.Error("what is no month ends")
	}
}

func TestMonths(t *testing.T) {
	type step struct {
		m Month
		n uint64
	}
	for _, c := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"sums", []step{{"2026-11", 1}, {"2026-11", 2}}, "[{2026-11 3}]"},
		{"nothing", []step{{"2026-11", 0}}, "[]"},
		{"in order", []step{{"2026-12", 2}, {"2026-11", 1}}, "[{2026-11 1} {2026-12 2}]"},
		{"back over the border and on", []step{{"2026-11", 1}, {"2026-12", 2}, {"2026-11", 3}, {"2026-12", 4}}, "[{2026-11 4} {2026-12 6}]"},
		{"the oldest goes", []step{{"2026-09", 1}, {"2026-10", 2}, {"2026-11", 3}, {"2026-12", 4}}, "[{2026-10 2} {2026-11 3} {2026-12 4}]"},
		{"the present stays beside a clock that was ahead",
			[]step{{"2027-01", 1}, {"2028-01", 1}, {"2029-01", 1}, {"2026-11", 5}, {"2026-11", 5}, {"2026-12", 1}}, "[{2026-12 1} {2028-01 1} {2029-01 1}]"},
		{"the present stays while a clock starts in 1970",
			[]step{{"2026-09", 1}, {"2026-10", 2}, {"2026-11", 3}, {"1970-01", 4}, {"2026-11", 5}, {"1970-01", 4}, {"2026-11", 6}}, "[{1970-01 8} {2026-10 2} {2026-11 14}]"},
		{"1970 goes first", []step{{"2026-10", 2}, {"2026-11", 3}, {"1970-01", 4}, {"2026-12", 5}}, "[{2026-10 2} {2026-11 3} {2026-12 5}]"},
	} {
		var ms Months
		for _, s := range c.steps {
			ms = ms.Plus(Months{{s.m, s.n}})
		}
		if got := fmt.Sprint(ms); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestMonthsIsNotWritten makes random changes of random versions; none of them
// may show in another.
func TestMonthsIsNotWritten(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	versions, texts := []Months{nil}, []string{"[]"}
	for range 500 {
		ms := versions[rnd.IntN(len(versions))]
		m, n := Month(fmt.Sprintf("2026-%02d", 1+rnd.IntN(6))), rnd.Uint64N(3)
		next := ms.With(m, n)
		if next.In(m) != n || len(next) > monthsKept {
			t.Fatalf("%v with %s=%d became %v", ms, m, n, next)
		}
		versions, texts = append(versions, next), append(texts, fmt.Sprint(next))
	}
	for i, ms := range versions {
		if fmt.Sprint(ms) != texts[i] {
			t.Fatalf("%s was written: %v", texts[i], ms)
		}
	}
}

func TestQuotaLevel(t *testing.T) {
	for _, c := range []struct{ used, quota, want uint64 }{
		{0, 0, 0}, {5, 0, 0}, {0, 1, 0}, {1, 1, 100},
		{79, 100, 0}, {80, 100, 80}, {99, 100, 80}, {100, 100, 100}, {1 << 60, 100, 100},
		{MaxQuota - 1, MaxQuota, 80}, {MaxQuota, MaxQuota, 100},
	} {
		if got := QuotaLevel(c.used, c.quota); got != c.want {
			t.Errorf("%d of %d is %d %%, want %d", c.used, c.quota, got, c.want)
		}
	}
}

func TestLiveWithQuota(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	full, warned := Months{{"2026-11", QuotaExceeded}}, Months{{"2026-11", QuotaWarning}}
	for _, c := range []struct {
		name           string
		p              Peer
		at             time.Time
		live, exceeded bool
	}{
		{"within", Peer{QuotaBytes: 1}, now, true, false},
		{"warned", Peer{QuotaBytes: 1, QuotaMarks: warned}, now, true, false},
		{"used up", Peer{QuotaBytes: 1, QuotaMarks: full}, now, false, true},
		{"used up, to be cut", Peer{QuotaBytes: 1, QuotaMarks: full, QuotaAction: QuotaBlock}, now, false, true},
		{"used up, to be told", Peer{QuotaBytes: 1, QuotaMarks: full, QuotaAction: QuotaNotify}, now, true, true},
		{"next month", Peer{QuotaBytes: 1, QuotaMarks: full}, now.AddDate(0, 0, 9), true, false},
		{"last month", Peer{QuotaBytes: 1, QuotaMarks: full}, now.AddDate(0, -1, 0), true, false},
		{"no quota any more", Peer{QuotaMarks: full}, now, true, false},
	} {
		c.p.Enabled = true
		if c.p.Live(c.at) != c.live || c.p.QuotaExceeded(c.at) != c.exceeded {
			t.Errorf("%s: live %t, exceeded %t", c.name, c.p.Live(c.at), c.p.QuotaExceeded(c.at))
		}
		if c.p.Enabled = false; c.p.Live(c.at) {
			t.Errorf("%s: live though disabled", c.name)
		}
	}
}

func TestPeerTraffic(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	first := PeerTraffic{RxBytes: 1, RxPackets: 2, TxBytes: 3, TxPackets: 4, Months: Months{{"2026-11", 4}}, LastHandshake: at, Endpoint: netip.MustParseAddrPort("192.0.2.7:51820"), Stamped: at}
	second := PeerTraffic{RxBytes: 10, RxPackets: 20, TxBytes: 30, TxPackets: 40, Months: Months{{"2026-12", 40}}, Stamped: at.AddDate(-1, 0, 0)}
	var c PeerCounters
	c.Add(first.Plus(second))
	c.Add(second)
	want := "{0 21 63 42 84 2026-11-22 12:00:00 +0000 UTC [{2026-11 4} {2026-12 80}] 192.0.2.7:51820 2026-11-22 12:00:00 +0000 UTC}"
	if got := fmt.Sprint(c); got != want {
		t.Errorf("counters %s, want %s", got, want)
	}
}
