package routes

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
)

func TestCheckDNS(t *testing.T) {
	records := map[string][]string{
		"here.example.com":  {"203.0.113.9"},
		"both.example.com":  {"198.51.100.1", "203.0.113.10"},
		"there.example.com": {"198.51.100.1"},
		"vpn.example.com":   {"203.0.113.9", "203.0.113.10"},
		"lo.example.com":    {"127.0.0.1"},
	}
	var mu sync.Mutex
	var asked map[string]bool
	look := func(_ context.Context, name string) (addrs []netip.Addr, err error) {
		mu.Lock()
		defer mu.Unlock()
		asked[name] = true
		for _, text := range records[name] {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		if len(addrs) == 0 {
			err = errors.New("no such name")
		}
		return addrs, err
	}
	for _, c := range []struct {
		name     string
		knownAs  []string
		domain   string
		addrs    int
		expected string // empty: not known
		matches  bool
	}{
		{"an address", []string{"203.0.113.9", "there.example.com"}, "here.example.com", 1, "203.0.113.9", true},
		{"spelled otherwise", []string{"203.0.113.9"}, " HERE.example.com ", 1, "203.0.113.9", true},
		{"elsewhere", []string{"203.0.113.9"}, "there.example.com", 1, "203.0.113.9", false},
		{"nowhere", []string{"203.0.113.9"}, "none.example.com", 0, "203.0.113.9", false},
		{"a name", []string{"vpn.example.com"}, "there.example.com", 1, "203.0.113.9", false},
		{"a name of two addresses, the second one", []string{"vpn.example.com"}, "both.example.com", 2, "203.0.113.10", true},
		{"the next one where the first is loopback", []string{"127.0.0.1", "203.0.113.9"}, "here.example.com", 1, "203.0.113.9", true},
		{"the next one where the first leads to loopback", []string{"lo.example.com", "vpn.example.com"}, "here.example.com", 1, "203.0.113.9", true},
		{"the next one where the first leads nowhere", []string{"none.example.com", "203.0.113.9"}, "here.example.com", 1, "203.0.113.9", true},
		{"the next one where the first is of IPv6", []string{"2001:db8::9", "203.0.113.9"}, "here.example.com", 1, "203.0.113.9", true},
		{"not known", []string{"localhost"}, "here.example.com", 1, "", false},
		{"a domain that nobody outside can know", []string{"203.0.113.9"}, "nas.fritz.lan", 0, "203.0.113.9", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked = make(map[string]bool)
			s := New(Options{LookUp: look, KnownAs: c.knownAs})
			got, err := s.CheckDNS(t.Context(), c.domain)
			expected := ""
			if got.Expected.IsValid() {
				expected = got.Expected.String()
			}
			if err != nil || len(got.Addrs) != c.addrs || expected != c.expected || got.Matches != c.matches {
				t.Errorf("%+v, %v", got, err)
			}
			if asked["nas.fritz.lan"] || asked["localhost"] {
				t.Errorf("strangers were asked about %v", asked)
			}
		})
	}
	for _, domain := range []string{"", "no", "*.example.com", "203.0.113.9", "a_b.example.com", "x..example.com"} {
		_, err := New(Options{LookUp: look}).CheckDNS(t.Context(), domain)
		wantError(t, err, model.KindInvalid, "domain")
	}
	if c, err := New(Options{KnownAs: []string{"203.0.113.9"}}).CheckDNS(t.Context(), "here.example.com"); err != nil || len(c.Addrs) > 0 || c.Matches {
		t.Errorf("with nobody to ask: %+v, %v", c, err)
	}
}

// TestCheckDNSBound: so many are looked up at once, and no more.
func TestCheckDNSBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looking atomic.Int32
		answer := make(chan struct{})
		s := New(Options{KnownAs: []string{"203.0.113.9"}, LookUp: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			looking.Add(1)
			select {
			case <-answer:
			case <-ctx.Done():
			}
			return nil, errors.New("no such name")
		}})
		var checks sync.WaitGroup
		for range maxLooks {
			checks.Go(func() {
				if _, err := s.CheckDNS(t.Context(), "here.example.com"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := s.CheckDNS(t.Context(), "here.example.com")
		if model.KindOf(err) != model.KindUnavailable || looking.Load() != maxLooks {
			t.Errorf("one more: %v, and %d are looked up", err, looking.Load())
		}
		close(answer)
		checks.Wait()
		if _, err := s.CheckDNS(t.Context(), "here.example.com"); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}

func TestCheckDNSEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := New(Options{KnownAs: []string{"vpn.example.com", "gate.example.org"}, LookUp: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		c, err := s.CheckDNS(t.Context(), "here.example.com")
		if took := time.Since(began); err != nil || c.Matches || c.Expected.IsValid() || took != 2*time.Second {
			t.Errorf("%+v, %v after %s", c, err, took)
		}
	})
}
