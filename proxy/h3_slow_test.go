package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// TestStalledClientHTTP3 has clients that stop: in a head, in a body, and in
// reading. Each request ends, and the connection serves on.
func TestStalledClientHTTP3(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for r.URL.Path == "/endless" {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.head, l.stall = 100*time.Millisecond, 100*time.Millisecond })
	head := func(method, target string, fields ...pair) string {
		return string(fieldSection(ask{method: method, target: target, host: "app.test", fields: fields}.head()))
	}
	for _, tt := range []struct {
		name, text string
		end        bool
	}{
		{"before the head", "", false},
		{"within the head", head("GET", "/")[:10], false},
		{"within the body", head("POST", "/", pair{"content-length", "10"}) + wireFrame(dataFrame, "abc"), false},
		{"within a body without length", head("POST", "/") + wireFrame(dataFrame, "abc"), false},
		{"within a frame", head("POST", "/") + wireFrame(dataFrame, "abc")[:4], false},
		{"in reading", head("GET", "/endless"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dialQUIC(t, "app.test")
			str, err := c.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			if tt.text == "" {
				tt.text = "\x01" // a stream is there with its first byte
			}
			_, _ = str.Write([]byte(tt.text))
			if tt.end {
				_ = str.Close()
			}
			eventually(t, "the request has begun and ended", func() bool {
				r.srv.mu.Lock()
				defer r.srv.mu.Unlock()
				for h := range r.srv.h3conns {
					h.mu.Lock()
					busy := h.accepted == 0 || h.active > 0
					h.mu.Unlock()
					if busy {
						return false
					}
				}
				return len(r.srv.h3conns) > 0
			})
			if !tt.end { // the answer that nobody reads has used up the window of the connection
				if got := askHTTP3(t, c, ask{method: "GET", target: "/", host: "app.test"}); got.status != 200 {
					t.Errorf("the next request: %+v", got)
				}
			}
			_ = c.CloseWithError(h3NoError, "")
			eventually(t, "the connection is gone", func() bool {
				r.srv.mu.Lock()
				defer r.srv.mu.Unlock()
				return len(r.srv.h3conns) == 0
			})
		})
	}
}

// TestIdleHTTP3 has a client ping all the time. Its connection is kept while it asks for
// something, and closed when it has not for a while.
func TestIdleHTTP3(t *testing.T) {
	const idle = 300 * time.Millisecond
	let := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-let
		}
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.idle = idle })
	cfg := r.trust()
	cfg.ServerName, cfg.NextProtos = "app.test", []string{"h3"}
	c, err := quic.DialAddr(t.Context(), r.quic(), cfg, &quic.Config{KeepAlivePeriod: idle / 10})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseWithError(h3NoError, "")
	late := time.AfterFunc(3*idle, func() { close(let) })
	defer late.Stop()
	if got := askHTTP3(t, c, ask{method: "GET", target: "/slow", host: "app.test"}); got.status != 200 {
		t.Errorf("a request that takes its time: %+v", got)
	}
	began := time.Now()
	select {
	case <-c.Context().Done():
	case <-time.After(20 * time.Second):
		t.Fatal("still open")
	}
	var closed *quic.ApplicationError
	if !errors.As(context.Cause(c.Context()), &closed) || closed.ErrorCode != h3NoError || !closed.Remote {
		t.Errorf("ended by %v", context.Cause(c.Context()))
	}
	if took := time.Since(began); took < idle/2 {
		t.Errorf("closed after %v", took)
	}
}

// TestRapidResetHTTP3 opens and resets streams as fast as it can. A request that
// still runs counts, whatever became of its stream.
func TestRapidResetHTTP3(t *testing.T) {
	var now, most, all atomic.Int64
	release := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		all.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release
		now.Add(-1)
	})
	// Nobody looks after clients, so that requests outlive their streams.
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = time.Minute })
	c := r.dialQUIC(t, "app.test")
	request := fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head())
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	opened := 0
	for ; opened < 3*maxStreams; opened++ {
		str, err := c.OpenStreamSync(ctx)
		if err != nil {
			break // as many as may be open, accepted or not
		}
		_, _ = str.Write(request)
		_ = str.Close()
		str.CancelRead(h3RequestCancelled)
	}
	eventually(t, "the streams have arrived", func() bool { return now.Load() > 0 })
	var h *h3Conn
	r.srv.mu.Lock()
	for h = range r.srv.h3conns {
	}
	r.srv.mu.Unlock()
	h.mu.Lock()
	active := h.active
	h.mu.Unlock()
	if active > maxStreams {
		t.Errorf("%d requests of one connection are served", active)
	}
	close(release)
	eventually(t, "all have ended", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.active == 0 && now.Load() == 0
	})
	if most.Load() > maxStreams {
		t.Errorf("%d requests at once", most.Load())
	}
	t.Logf("%d streams opened, %d requests reached the backend, %d at once", opened, all.Load(), most.Load())
}
