package dns

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// keptFor is an answer with a TTL and a size.
func keptFor(ttl time.Duration, size int) *cached {
	return &cached{msg: make([]byte, size), ttl: ttl}
}

func TestCacheIsBounded(t *testing.T) {
	for name, size := range map[string]int{"many": 100, "large": maxEntryBytes, "too large": maxEntryBytes + 1} {
		c := newCache()
		value := keptFor(time.Hour, size)
		for i := range 3 * cacheEntries {
			c.put(fmt.Append(nil, i), value)
		}
		entries, bytes := 0, 0
		for i := range c.shards {
			s := &c.shards[i]
			entries += len(s.nodes)
			bytes += s.bytes
			n := 0
			for x := s.ring.next; x != &s.ring; x = x.next {
				n++
			}
			if n != len(s.nodes) {
				t.Fatalf("%s: ring of %d, map of %d", name, n, len(s.nodes))
			}
		}
		if entries > cacheEntries || bytes > cacheBytes || (entries == 0) != (size > maxEntryBytes) {
			t.Errorf("%s: %d entries, %d bytes", name, entries, bytes)
		}
	}
}

// What is asked for often stays, whatever else passes through.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	c := newCache()
	c.put([]byte("used"), keptFor(time.Hour, 100))
	value := keptFor(time.Hour, 100)
	for i := range 5 * cacheEntries {
		c.put(fmt.Append(nil, i), value)
		if i%100 == 0 && c.get([]byte("used"), 0) == nil {
			t.Fatalf("gone after %d others", i)
		}
	}
	if c.get([]byte("0"), 0) != nil {
		t.Error("the oldest is still there")
	}
}

func TestCacheForgetsWhatIsTooOld(t *testing.T) {
	c := newCache()
	c.put([]byte("x"), keptFor(time.Minute, 100))
	last := time.Minute + staleFor - 1
	if v := c.get([]byte("x"), last); v == nil || v.fresh(last) {
		t.Fatal("not stale")
	}
	if c.get([]byte("x"), last+1) != nil || c.get([]byte("x"), 0) != nil {
		t.Fatal("not gone")
	}
}

// A cached answer written as bytes says what the library would say.
func TestCachedAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, rrs := range [][]string{
		{exampleA},
		{"@ 300 IN CNAME a.example.org.", "a.example.org. 20 IN A 192.0.2.1", "a.example.org. 30 IN A 192.0.2.2"},
		{exampleSOA},
	} {
		asked := question("www.example.org", dns.TypeA)
		c, err := sift(answerWith(asked, 0, rrs...), 0)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := asked.Pack()
		var q query
		q.parse(b)
		for range 50 {
			age := time.Duration(rng.Int64N(int64(c.ttl)))
			got := new(dns.Msg)
			if err := got.Unpack(c.answer(nil, &q, false, age)); err != nil {
				t.Fatal(err)
			}
			want := answerWith(asked, 0, rrs...)
			for _, rr := range append(want.Answer, want.Ns...) {
				rr.Header().Ttl -= uint32(age / time.Second)
			}
			if got.String() != want.String() {
				t.Fatalf("at %v got\n%v\nwant\n%v", age, got, want)
			}
		}
	}
}
