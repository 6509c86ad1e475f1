package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestChangedIndexEqualsWhole changes a Config at random, names that several
// lines share included: an index made by changes is the one built from nothing.
func TestChangedIndexEqualsWhole(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	wire, err := wireName("", zone)
	if err != nil {
		t.Fatal(err)
	}
	// Few names and addresses, so that they clash and nest.
	hosts := []string{"a", "b", "x.a", "y.x.a", "web.c", "server", "deep.web.c"}
	domains := []string{"example.com", "www.example.com", "a." + zone, "q.r." + zone, "other.test", "me.localhost", "s.me.localhost"}
	line := func() Record {
		r := Record{Name: hosts[rnd.IntN(len(hosts))], Addr: netip.AddrFrom4([4]byte{10, 8, byte(rnd.IntN(2)), byte(rnd.IntN(4))})}
		if rnd.IntN(2) == 0 {
			r.Addr6 = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(rnd.IntN(4))})
		}
		return r
	}
	last, err := newIndex(wire, Config{Address: tunnelAddr}, 1)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range 20_000 {
		c := last.config
		c.Records, c.Domains = slices.Clone(c.Records), slices.Clone(c.Domains)
		for range 1 + rnd.IntN(2) {
			switch n := rnd.IntN(4); {
			case n == 0:
				c.Records = slices.Insert(c.Records, rnd.IntN(len(c.Records)+1), line())
			case n == 1:
				c.Domains = slices.Insert(c.Domains, rnd.IntN(len(c.Domains)+1), domains[rnd.IntN(len(domains))])
			case n == 2 && len(c.Records) > 0:
				at := rnd.IntN(len(c.Records))
				c.Records = slices.Delete(c.Records, at, at+1)
			case n == 3 && len(c.Domains) > 0:
				at := rnd.IntN(len(c.Domains))
				c.Domains = slices.Delete(c.Domains, at, at+1)
			}
		}
		whole, err := newIndex(wire, c, uint32(i))
		got, ok := last.with(wire, c, uint32(i))
		if ok && err != nil {
			t.Fatalf("%v was taken, although: %v", c, err)
		}
		if err != nil {
			continue
		}
		if ok {
			changed++
			if !reflect.DeepEqual(got, whole) {
				t.Fatalf("from %v\nto %v\ngot  %v\nwant %v", last.config, c, dump(got), dump(whole))
			}
		}
		last = whole
		if len(c.Records)+len(c.Domains) > 12 {
			last, _ = newIndex(wire, Config{Address: tunnelAddr}, 1)
		}
	}
	if changed < 1000 {
		t.Errorf("only %d indexes were made by a change", changed)
	}
}

func dump(x *index) map[string]string {
	m := make(map[string]string)
	for name, e := range x.names {
		if e.kind != zoneApex {
			m[name] = fmt.Sprintf("%+v", e)
		}
	}
	return m
}
