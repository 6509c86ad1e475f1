package peers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func groupInput(body string) (in GroupInput, err error) {
	err = model.DecodeObject([]byte(body), &in)
	return in, err
}

func (b *bench) group(t testing.TB, body string) *model.Group {
	t.Helper()
	in, err := groupInput(body)
	if err != nil {
		t.Fatal(err)
	}
	g, err := b.CreateGroup(t.Context(), in)
	if err != nil {
		t.Fatalf("create %s: %v", body, err)
	}
	return g
}

func (b *bench) groups(t testing.TB) []GroupView {
	t.Helper()
	list, err := b.Groups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func showGroup(g *model.Group) string {
	return fmt.Sprintf("%s|%s|%s|%t|%t", g.Name, g.Color, g.Description, g.Isolated, g.NoExit)
}

func TestCreateGroup(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       string
		fields     string // at fault; empty: created
		kind       model.Kind
	}{
		{name: "name alone", body: `{"name":"Home"}`, want: "Home|#6b7280||false|false"},
		{name: "everything", body: `{"name":" Büro 1 ","color":"#AbC","description":"d","isolated":1,"no_exit":"true"}`, want: "Büro 1|#AbC|d|true|true"},
		{name: "nulls", body: `{"name":"a","color":null,"description":null,"isolated":null,"no_exit":null}`, want: "a|#6b7280||false|false"},
		{name: "empty texts", body: `{"name":"a","color":"","description":"","isolated":"","no_exit":0}`, want: "a|#6b7280||false|false"},
		{name: "the longest", body: `{"name":"` + strings.Repeat("ü", 64) + `","color":"#01234567","description":"` + strings.Repeat("ü", 255) + `"}`,
			want: strings.Repeat("ü", 64) + "|#01234567|" + strings.Repeat("ü", 255) + "|false|false"},
		{name: "another case", body: `{"name":"Taken"}`, want: "Taken|#6b7280||false|false"},
		{name: "unknown members", body: `{"name":"a","peer_count":7,"id":9}`, want: "a|#6b7280||false|false"},
		{name: "no name", body: `{}`, fields: "name", kind: model.KindInvalid},
		{name: "null name", body: `{"name":null}`, fields: "name", kind: model.KindInvalid},
		{name: "blank name", body: `{"name":"  "}`, fields: "name", kind: model.KindInvalid},
		{name: "name too long", body: `{"name":"` + strings.Repeat("a", 65) + `"}`, fields: "name", kind: model.KindInvalid},
		{name: "name of two lines", body: `{"name":"a\nb"}`, fields: "name", kind: model.KindInvalid},
		{name: "name in use", body: `{"name":" taken "}`, fields: "name", kind: model.KindConflict},
		{name: "all wrong", body: `{"color":"red","description":"` + strings.Repeat("a", 256) + `"}`, fields: "name color description", kind: model.KindInvalid},
		{name: "unreadable", body: `{"name":[],"color":{},"isolated":2,"no_exit":"maybe"}`, fields: "name color isolated no_exit", kind: model.KindInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			b.group(t, `{"name":"taken"}`)
			before := len(b.events(t))
			in, err := groupInput(c.body)
			var g *model.Group
			if err == nil {
				g, err = b.CreateGroup(t.Context(), in)
			}
			if c.fields != "" {
				e := wantError(t, err, c.kind, "")
				for field := range strings.FieldsSeq(c.fields) {
					wantError(t, err, c.kind, field)
				}
				if n := len(strings.Fields(c.fields)); len(e.Fields) != n {
					t.Errorf("%d fields, want %d: %v", len(e.Fields), n, e.Fields)
				}
				if len(b.groups(t)) != 1 || len(b.events(t)) != before {
					t.Error("a refusal left something")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			stored := b.groups(t)
			i := slices.IndexFunc(stored, func(v GroupView) bool { return v.ID == g.ID })
			if i < 0 || showGroup(&stored[i].Group) != c.want || showGroup(g) != c.want || g.ID != 2 || !g.CreatedAt.Equal(noon) {
				t.Errorf("%+v, stored %+v, want %s", g, stored, c.want)
			}
			details := fmt.Sprintf(`{"groupId":2,"isolated":%t,"noExit":%t}`, g.Isolated, g.NoExit)
			if e := b.lastEvent(t); e.Type != "peer_group_created" || e.Severity != model.SeveritySuccess || string(e.Details) != details {
				t.Errorf("event %s %s %s", e.Type, e.Severity, e.Details)
			}
		})
	}
}

func TestUpdateGroup(t *testing.T) {
	const was = "old|#abc|d|true|false"
	for _, c := range []struct {
		name, body, want, field string
		kind                    model.Kind
	}{
		{name: "nothing", body: `{}`, want: was},
		{name: "its own name", body: `{"name":"old"}`, want: was},
		{name: "one field", body: `{"name":"new"}`, want: "new|#abc|d|true|false"},
		{name: "the switches", body: `{"isolated":false,"no_exit":1}`, want: "old|#abc|d|false|true"},
		{name: "nulls", body: `{"color":null,"description":null,"isolated":null}`, want: "old|#6b7280||false|false"},
		{name: "null name", body: `{"name":null,"isolated":false}`, field: "name", kind: model.KindInvalid},
		{name: "empty name", body: `{"name":""}`, field: "name", kind: model.KindInvalid},
		{name: "name in use", body: `{"name":"other","isolated":false}`, field: "name", kind: model.KindConflict},
		{name: "bad color", body: `{"color":"#12"}`, field: "color", kind: model.KindInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			b.group(t, `{"name":"other"}`)
			g := b.group(t, `{"name":"old","color":"#abc","description":"d","isolated":true}`)
			before := len(b.events(t))
			in, err := groupInput(c.body)
			if err != nil {
				t.Fatal(err)
			}
			b.now = noon.Add(time.Hour)
			got, err := b.UpdateGroup(t.Context(), g.ID, in)
			var stored model.Group
			for _, v := range b.groups(t) {
				if v.ID == g.ID {
					stored = v.Group
				}
			}
			if c.field != "" {
				wantError(t, err, c.kind, c.field)
				if showGroup(&stored) != was || len(b.events(t)) != before {
					t.Errorf("a refusal left %+v and %d events", stored, len(b.events(t))-before)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if showGroup(&stored) != c.want || *got != stored || !stored.CreatedAt.Equal(noon) {
				t.Errorf("answered %+v, stored %+v, want %s", got, stored, c.want)
			}
			details := fmt.Sprintf(`{"groupId":2,"isolated":%t,"noExit":%t}`, got.Isolated, got.NoExit)
			if e := b.lastEvent(t); e.Type != "peer_group_updated" || e.Severity != model.SeverityInfo || string(e.Details) != details {
				t.Errorf("event %s %s %s", e.Type, e.Severity, e.Details)
			}
		})
	}
	b := newBench(t, "10.8.0.0/24")
	_, err := b.UpdateGroup(t.Context(), 1, GroupInput{})
	wantError(t, err, model.KindNotFound, "")
}

func TestDeleteGroup(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	gone, stays := b.group(t, `{"name":"gone","isolated":true}`), b.group(t, `{"name":"stays"}`)
	want := make(map[model.PeerID]model.GroupID)
	for i, g := range []model.GroupID{gone.ID, stays.ID, gone.ID, 0} {
		p := b.create(t, fmt.Sprint("peer ", i), func(in *Input) { in.GroupID = model.Value(int64(g)) })
		if want[p.ID] = g; g == gone.ID {
			want[p.ID] = 0
		}
	}
	b.now = noon.Add(time.Hour)
	if err := b.DeleteGroup(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	got := make(map[model.PeerID]model.GroupID)
	for id := range want {
		p := b.get(t, id)
		got[id] = p.Group
		if moved := p.UpdatedAt.Equal(b.now); moved != (id == 1 || id == 3) {
			t.Errorf("peer %d was changed at %s", id, p.UpdatedAt)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("groups of the peers: %v, want %v", got, want)
	}
	if list := b.groups(t); len(list) != 1 || list[0].ID != stays.ID {
		t.Errorf("%+v", list)
	}
	if e := b.lastEvent(t); e.Type != "peer_group_deleted" || e.Severity != model.SeverityWarning || string(e.Details) != `{"groupId":1,"isolated":true,"noExit":false}` {
		t.Errorf("event %s %s %s", e.Type, e.Severity, e.Details)
	}
	wantError(t, b.DeleteGroup(t.Context(), gone.ID), model.KindNotFound, "")
}

func TestGroupsAreListedByName(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	for _, name := range []string{"b", "a", "Z", "ä", "10", "9"} {
		b.group(t, `{"name":"`+name+`"}`)
	}
	for i := range 12 {
		b.create(t, fmt.Sprint("peer ", i), func(in *Input) { in.GroupID = model.Value(int64(1 + i%2)) })
	}
	b.create(t, "alone")
	b.write(t, func(tx *store.Tx) error { _, err := store.Peers.Delete(tx, 1); return err })
	var got []string
	for _, g := range b.groups(t) {
		got = append(got, fmt.Sprint(g.Name, ":", g.Members))
	}
	if want := "10:0 9:0 Z:0 a:6 b:5 ä:0"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestMaxGroups(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	b.write(t, func(tx *store.Tx) error {
		for i := range MaxGroups - 1 {
			if err := store.Groups.Insert(tx, &model.Group{Name: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	b.group(t, `{"name":"the last"}`)
	_, err := b.CreateGroup(t.Context(), GroupInput{Name: model.Value("one more")})
	wantError(t, err, model.KindConflict, "")
	if _, err := b.UpdateGroup(t.Context(), 5, GroupInput{Name: model.Value("renamed")}); err != nil {
		t.Errorf("a change beside the most groups: %v", err)
	}
}

func TestGroupOfPeer(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	b.group(t, `{"name":"one"}`)
	two := b.group(t, `{"name":"two"}`)
	p := b.create(t, "a", func(in *Input) { in.GroupID = model.Value(int64(two.ID)) })
	if p.Group != two.ID {
		t.Errorf("created in group %d", p.Group)
	}
	for _, c := range []struct {
		body string
		want model.GroupID
	}{
		{`{"group_id":1}`, 1}, {`{"name":"b"}`, 1}, {`{"group_id":"2"}`, 2}, {`{"group_id":null}`, 0},
		{`{"group_id":2}`, 2}, {`{"group_id":0}`, 0}, {`{"group_id":"1"}`, 1}, {`{"group_id":""}`, 0},
	} {
		v, err := b.Update(t.Context(), p.ID, input(t, c.body))
		if err != nil || v.Group != c.want || b.get(t, p.ID).Group != c.want {
			t.Errorf("%s: group %d, want %d: %v", c.body, v.Group, c.want, err)
		}
	}
	for _, body := range []string{`{"group_id":3}`, `{"group_id":-1}`, `{"group_id":1.5}`, `{"group_id":"one"}`, `{"group_id":9223372036854775807}`} {
		var in Input
		err := in.UnmarshalJSON([]byte(body))
		if err == nil {
			_, err = b.Update(t.Context(), p.ID, in)
		}
		wantError(t, err, model.KindInvalid, "group_id")
	}
}
