package certs

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

// TestCut starts with what a process leaves that ended during an attempt. One of those
// is followed by the next at once, several by the pauses of failures; and one that came
// to its end but for the note counts as done.
func TestCut(t *testing.T) {
	const name, pause = "app.example.com", 200 * time.Millisecond
	for _, tt := range []struct {
		name  string
		left  history
		first time.Duration
		wait  time.Duration // at least, from what is noted
	}{
		{"once", history{Cut: 1}, time.Hour, 0},
		{"twice", history{Cut: 2}, pause, pause},
		{"three times", history{Cut: 3, Failures: 1, Error: "before"}, pause, 2 * pause},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, setup{tune: func(_ *Options, tm *times) { tm.first, tm.most = tt.first, 2*time.Hour }})
			tt.left.Tried = time.Now()
			raw, err := json.Marshal(tt.left)
			if err == nil {
				err = r.db.Blobs().Save(context.Background(), map[string][]byte{(&subject{name: name}).historyKey(): raw})
			}
			if err != nil {
				t.Fatal(err)
			}
			r.serve(name)
			r.waitFor("a certificate", func() bool { return r.isBy(name, r.pebble) })
			if took := time.Since(tt.left.Tried); took < tt.wait {
				t.Errorf("it took %v, want %v", took, tt.wait)
			}
			r.waitIdle(name)
			if h := r.history(name); h.Cut != 0 || h.Failures != 0 || len(h.Issued) != 1 {
				t.Errorf("afterwards: %+v", h)
			}
			if n := r.pebble.Orders.Load(); n != 1 {
				t.Errorf("%d orders", n)
			}
		})
	}
	t.Run("but for the note", func(t *testing.T) {
		r := newRig(t, setup{})
		r.serve(name)
		r.waitFor("a certificate", func() bool { return r.isBy(name, r.pebble) })
		r.waitIdle(name)
		h := r.history(name)
		raw, err := json.Marshal(history{}.begun(h.Tried.Add(-time.Minute)))
		if err == nil {
			err = r.db.Blobs().Save(context.Background(), map[string][]byte{(&subject{name: name}).historyKey(): raw})
		}
		if err != nil {
			t.Fatal(err)
		}
		r.restart(setup{})
		r.serve(name)
		r.waitIdle(name)
		if b := r.m.Budget(name); b.SameName != 1 || r.pebble.Orders.Load() != 1 {
			t.Errorf("%d issued, %d orders", b.SameName, r.pebble.Orders.Load())
		}
	})
}

// history is what is stored of the attempts for a name.
func (r *rig) history(name string) (h history) {
	r.t.Helper()
	raw, _, err := r.db.Blobs().Load(context.Background(), (&subject{name: name}).historyKey())
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}
