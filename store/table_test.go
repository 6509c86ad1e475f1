package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

// thing is a record of a test.
type thing struct {
	ID    int64    `json:"id"`
	Name  string   `json:"name"`  // unique; "" has none
	Codes []string `json:"codes"` // unique, several
	Color string   `json:"color"` // not unique
	Tags  []string `json:"tags"`  // not unique, several
}

var things = Table[int64, thing]{
	name: "things", class: Intent,
	key: func(v *thing) *int64 { return &v.ID },
	indexes: []Index[thing]{
		{Name: "name", Unique: true, Keys: func(v *thing) []string { return some(v.Name) }},
		{Name: "codes", Unique: true, Keys: func(v *thing) []string { return v.Codes }},
		{Name: "color", Keys: func(v *thing) []string { return some(v.Color) }},
		{Name: "tags", Keys: func(v *thing) []string { return v.Tags }},
	},
}

// slow is the same in the plainest form: a map that is searched from end to end.
type slow map[int64]thing

func (s slow) ids() []int64 { return slices.Sorted(maps.Keys(s)) }

// clash reports whether v may not be stored.
func (s slow) clash(v thing) bool {
	for id, o := range s {
		if id == v.ID {
			continue
		}
		if v.Name != "" && o.Name == v.Name {
			return true
		}
		for _, c := range v.Codes {
			if slices.Contains(o.Codes, c) {
				return true
			}
		}
	}
	return false
}

func (s slow) where(match func(thing) bool) (ids []int64) {
	for _, id := range s.ids() {
		if match(s[id]) {
			ids = append(ids, id)
		}
	}
	return ids
}

var (
	names  = []string{"", "a", "aa", "b", "b.c", "ab", "x", "y", "z"}
	colors = []string{"", "red", "redder", "blue"}
)

func randomThing(r *rand.Rand, id int64) thing {
	subset := func(list []string) (out []string) {
		for _, s := range list {
			if r.IntN(4) == 0 && s != "" {
				out = append(out, s)
			}
		}
		return out
	}
	return thing{ID: id, Name: names[r.IntN(len(names))], Codes: subset(names), Color: colors[r.IntN(len(colors))], Tags: subset(colors)}
}

func TestTableAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	db := open(t, t.TempDir())
	addTable(t, db, &things)
	have, lastID := slow{}, int64(0)
	for range 150 {
		next, nextID := maps.Clone(have), lastID
		keep := r.IntN(5) > 0
		err := db.Update(t.Context(), func(tx *Tx) error {
			for range 1 + r.IntN(6) {
				v := randomThing(r, int64(1+r.IntN(12)))
				var err error
				switch op := r.IntN(10); {
				case op < 2:
					v.ID = 0
					nextID++ // also where the insert is refused: a number is never used twice
					clash := next.clash(thing{ID: nextID, Name: v.Name, Codes: v.Codes})
					if err = things.Insert(tx, &v); (err != nil) != clash {
						return fmt.Errorf("insert of %+v: %v", v, err)
					}
					if v.ID != nextID {
						return fmt.Errorf("number %d, want %d", v.ID, nextID)
					}
				case op < 7:
					if err = things.Put(tx, &v); (err != nil) != next.clash(v) {
						return fmt.Errorf("put of %+v: %v", v, err)
					}
				default:
					_, had := next[v.ID]
					was, err := things.Delete(tx, v.ID)
					if err != nil || was != had {
						return fmt.Errorf("delete of %d: %t, %v", v.ID, was, err)
					}
					delete(next, v.ID)
					continue
				}
				if err == nil {
					next[v.ID] = v
				} else if _, ok := errors.AsType[*DuplicateError](err); !ok {
					return err
				}
			}
			if err := compare(tx, next); err != nil {
				return err
			}
			if !keep {
				return errStop
			}
			return nil
		})
		if keep != (err == nil) || err != nil && err != errStop {
			t.Fatal(err)
		}
		if keep {
			have, lastID = next, nextID
		}
		read(t, db, func(tx *Tx) error { return compare(tx, have) })
	}
}

// compare asks the table everything that it can tell.
func compare(tx *Tx, want slow) error {
	var all, back []int64
	for v, err := range things.All(tx) {
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(*v, want[v.ID]) {
			return fmt.Errorf("record %+v, want %+v", *v, want[v.ID])
		}
		all = append(all, v.ID)
	}
	for v := range things.Backward(tx) {
		back = append(back, v.ID)
	}
	slices.Reverse(back)
	ids := want.ids()
	if !slices.Equal(all, ids) || !slices.Equal(back, ids) || things.Len(tx) != len(ids) {
		return fmt.Errorf("all %v, backward %v, %d records; want %v", all, back, things.Len(tx), ids)
	}
	for _, offset := range []int{0, 1, len(ids), len(ids) + 1} {
		page, total := things.Page(tx, 3, offset)
		wantPage := ids[min(offset, len(ids)):min(offset+3, len(ids))]
		if total != len(ids) || !slices.EqualFunc(page, wantPage, func(v *thing, id int64) bool { return v.ID == id }) {
			return fmt.Errorf("page at %d: %d of %d, want %v of %v", offset, len(page), total, wantPage, ids)
		}
	}
	for id := range int64(14) {
		v, err := things.Get(tx, id)
		if _, ok := want[id]; err != nil || (v != nil) != ok {
			return fmt.Errorf("get %d: %v, %v", id, v, err)
		}
	}
	for _, x := range []struct {
		index string
		keys  []string
		match func(thing, string) bool
	}{
		{"name", names, func(v thing, k string) bool { return k != "" && v.Name == k }},
		{"codes", names, func(v thing, k string) bool { return slices.Contains(v.Codes, k) }},
		{"color", colors, func(v thing, k string) bool { return k != "" && v.Color == k }},
		{"tags", colors, func(v thing, k string) bool { return slices.Contains(v.Tags, k) }},
	} {
		type entry struct {
			key string
			id  int64
		}
		var wantEntries []entry
		for _, key := range slices.Sorted(slices.Values(x.keys)) {
			ids := want.where(func(v thing) bool { return x.match(v, key) })
			for _, id := range ids {
				wantEntries = append(wantEntries, entry{key, id})
			}
			var got []int64
			if things.unique(x.index) {
				v, err := things.Find(tx, x.index, key)
				if err != nil {
					return err
				}
				if v != nil {
					got = append(got, v.ID)
				}
			} else {
				list, err := things.FindAll(tx, x.index, key)
				if err != nil {
					return err
				}
				for _, v := range list {
					got = append(got, v.ID)
				}
			}
			if !slices.Equal(got, ids) {
				return fmt.Errorf("%s %q: %v, want %v", x.index, key, got, ids)
			}
		}
		for _, from := range []string{"", "b", "red", "~"} {
			var got []entry
			for key, id := range things.Entries(tx, x.index, from) {
				got = append(got, entry{key, id})
			}
			wantFrom := slices.DeleteFunc(slices.Clone(wantEntries), func(e entry) bool { return e.key < from })
			if !slices.Equal(got, wantFrom) {
				return fmt.Errorf("entries of %s from %q: %v, want %v", x.index, from, got, wantFrom)
			}
		}
	}
	return nil
}

func TestDuplicateLeavesNothing(t *testing.T) {
	db := open(t, t.TempDir())
	addTable(t, db, &things)
	update(t, db, func(tx *Tx) error {
		for _, v := range []thing{{Name: "a", Codes: []string{"x", "y"}}, {Name: "b", Codes: []string{"z"}, Color: "red"}} {
			if err := things.Insert(tx, &v); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range []struct {
		name string
		v    thing
		want DuplicateError
	}{
		{"name of another", thing{ID: 2, Name: "a"}, DuplicateError{"things", "name", "a"}},
		{"the second of two codes", thing{ID: 2, Name: "new", Codes: []string{"q", "y"}, Color: "blue"}, DuplicateError{"things", "codes", "y"}},
		{"a new one", thing{ID: 3, Name: "new", Codes: []string{"z"}}, DuplicateError{"things", "codes", "z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The transaction goes on and is committed: the refused Put must not show.
			update(t, db, func(tx *Tx) error {
				changes := len(tx.Changes())
				err := things.Put(tx, &c.v)
				if dup, ok := errors.AsType[*DuplicateError](err); !ok || *dup != c.want {
					t.Errorf("error %v, want %v", err, &c.want)
				}
				if len(tx.Changes()) != changes {
					t.Error("it counts as a change")
				}
				return nil
			})
			read(t, db, func(tx *Tx) error {
				return compare(tx, slow{
					1: {ID: 1, Name: "a", Codes: []string{"x", "y"}}, 2: {ID: 2, Name: "b", Codes: []string{"z"}, Color: "red"},
				})
			})
		})
	}
	// A record keeps what is its own, and two keys of one record may be alike.
	update(t, db, func(tx *Tx) error {
		return things.Put(tx, &thing{ID: 1, Name: "a", Codes: []string{"y", "y"}})
	})
}

func TestNumbersAreNotUsedTwice(t *testing.T) {
	db := open(t, t.TempDir())
	addTable(t, db, &things)
	update(t, db, func(tx *Tx) error {
		v := thing{}
		if err := things.Insert(tx, &v); err != nil {
			return err
		}
		_, err := things.Delete(tx, v.ID)
		return err
	})
	update(t, db, func(tx *Tx) error {
		v := thing{}
		err := things.Insert(tx, &v)
		if v.ID != 2 {
			t.Errorf("number %d", v.ID)
		}
		return err
	})
}

func TestChanges(t *testing.T) {
	db := open(t, t.TempDir())
	update(t, db, func(tx *Tx) error {
		for _, f := range []func() error{
			func() error { return Settings.Put(tx, &Setting{"a", "1"}) },
			func() error { return Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "a.example.com"}) },
			func() error { return Counters.Put(tx, &model.PeerCounters{ID: 1}) },
			func() error { _, err := Settings.Delete(tx, "a"); return err },
			func() error { _, err := Settings.Delete(tx, "a"); return err },
		} {
			if err := f(); err != nil {
				return err
			}
		}
		var got []string
		for _, c := range tx.Changes() {
			switch c.Table {
			case Settings.Name():
				got = append(got, c.Table+" "+Settings.Key(c.Key))
			case Routes.Name():
				got = append(got, c.Table+" "+Routes.Key(c.Key).String())
			}
		}
		if want := "settings a, routes 1, settings a"; strings.Join(got, ", ") != want || len(tx.Changes()) != 3 {
			t.Errorf("%v of %d, want %s", got, len(tx.Changes()), want)
		}
		return nil
	})
}

// A record that cannot be read is an error of its own; the rest still comes.
func TestUnreadableRecord(t *testing.T) {
	db := open(t, t.TempDir())
	addTable(t, db, &things)
	update(t, db, func(tx *Tx) error {
		for _, name := range []string{"a", "b", "c"} {
			if err := things.Insert(tx, &thing{Name: name}); err != nil {
				return err
			}
		}
		return tx.b.Bucket([]byte("things")).Put(encodeKey(int64(2)), []byte("{"))
	})
	read(t, db, func(tx *Tx) error {
		good, bad := 0, 0
		for v, err := range things.All(tx) {
			if err != nil {
				bad++
			} else if v != nil {
				good++
			}
		}
		if good != 2 || bad != 1 {
			t.Errorf("%d records, %d errors", good, bad)
		}
		if _, err := things.Get(tx, 2); err == nil {
			t.Error("Get does not tell")
		}
		if page, total := things.Page(tx, 10, 0); len(page) != 2 || total != 3 {
			t.Errorf("page of %d of %d", len(page), total)
		}
		return nil
	})
	err := db.Update(t.Context(), func(tx *Tx) error { return things.Put(tx, &thing{ID: 2}) })
	if err == nil {
		t.Error("its index entries cannot be known, yet it was replaced")
	}
}

func TestRecordsAreTheCallersOwn(t *testing.T) {
	db := open(t, t.TempDir())
	addTable(t, db, &things)
	update(t, db, func(tx *Tx) error { return things.Insert(tx, &thing{Name: "a", Tags: []string{"x"}}) })
	var v *thing
	read(t, db, func(tx *Tx) (err error) { v, err = things.Get(tx, 1); return err })
	v.Name, v.Tags[0] = "changed", "changed" // after its transaction has ended
	read(t, db, func(tx *Tx) error {
		again, err := things.Get(tx, 1)
		if again.Name != "a" || again.Tags[0] != "x" {
			t.Errorf("%+v", again)
		}
		return err
	})
}

func TestKeys(t *testing.T) {
	var last []byte
	for _, n := range []int64{0, 1, 255, 256, 1 << 32, 1<<63 - 1} {
		k := encodeKey(n)
		if bytes.Compare(last, k) >= 0 {
			t.Errorf("%d does not sort after the one before", n)
		}
		if got := decodeKey[int64](k); got != n {
			t.Errorf("%d came back as %d", n, got)
		}
		last = k
	}
	if got := decodeKey[model.SessionID](encodeKey(model.SessionID("ab"))); got != "ab" {
		t.Errorf("came back as %q", got)
	}
	if got := decodeKey[int64]([]byte("short")); got != 0 {
		t.Errorf("a key of another length is %d", got)
	}
}

func TestIndexKeys(t *testing.T) {
	for _, s := range []string{"2026-11-21T12:00:00Z", "2026-11-21T12:00:00.000000001Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"} {
		want, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ExpiryTime(ExpiryKey(want)); err != nil || !got.Equal(want) {
			t.Errorf("%s came back as %s, %v", want, got, err)
		}
	}
	zone := time.FixedZone("", 3600)
	if a, b := ExpiryKey(time.Date(2026, 1, 1, 0, 30, 0, 0, zone)), ExpiryKey(time.Date(2025, 12, 31, 23, 45, 0, 0, time.UTC)); a >= b {
		t.Errorf("%s does not sort before %s", a, b)
	}
	for _, r := range []model.PortRange{{First: 1, Last: 1}, {First: 22, Last: 65535}, {First: 65535, Last: 65535}} {
		network, got, err := ListenPorts(ListenKey("udp", r))
		if err != nil || network != "udp" || got != r {
			t.Errorf("%v came back as %s %v, %v", r, network, got, err)
		}
	}
	if ListenKey("tcp", model.PortRange{First: 9, Last: 9}) >= ListenKey("tcp", model.PortRange{First: 10, Last: 10}) {
		t.Error("ports do not sort as numbers")
	}
	if _, _, err := ListenPorts("nonsense"); err == nil {
		t.Error("nonsense has ports")
	}
}

func TestSeries(t *testing.T) {
	db := open(t, t.TempDir())
	at := func(n int) time.Time { return time.UnixMilli(int64(n) * 1000) }
	if err := db.UpdateHistory(func(tx *Tx) error {
		for _, n := range []int{3, 1, 2, 5, 4, 3} { // the last one replaces the first
			if err := Traffic.Append(tx, at(n), &model.TrafficSample{At: at(n), Peers: n}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	between := func(from, to int) (list []int) {
		if err := db.ViewHistory(func(tx *Tx) error {
			for s, err := range Traffic.Between(tx, at(from), at(to)) {
				if err != nil {
					return err
				}
				list = append(list, s.Peers)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	prune := func(before, limit int) (n int) {
		if err := db.UpdateHistory(func(tx *Tx) (err error) { n, err = Traffic.Prune(tx, at(before), limit); return err }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, c := range []struct {
		from, to int
		want     string
	}{{0, 9, "[1 2 3 4 5]"}, {2, 4, "[2 3]"}, {2, 2, "[]"}, {4, 2, "[]"}, {-5, 2, "[1]"}} {
		if got := fmt.Sprint(between(c.from, c.to)); got != c.want {
			t.Errorf("from %d to %d: %s, want %s", c.from, c.to, got, c.want)
		}
	}
	if n := prune(4, 2); n != 2 || fmt.Sprint(between(0, 9)) != "[3 4 5]" {
		t.Errorf("pruned %d, left %v", n, between(0, 9))
	}
	if n := prune(4, 9); n != 1 || fmt.Sprint(between(0, 9)) != "[4 5]" {
		t.Errorf("pruned %d, left %v", n, between(0, 9))
	}
}

func FuzzIndexKey(f *testing.F) {
	f.Add("tcp/00001-00002")
	f.Add("/-")
	f.Fuzz(func(t *testing.T, key string) {
		network, r, err := ListenPorts(key)
		if err != nil {
			return
		}
		if n, again, err := ListenPorts(ListenKey(network, r)); err != nil || n != network || again != r {
			t.Errorf("%q is %s %v, then %s %v, %v", key, network, r, n, again, err)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
	})
}
