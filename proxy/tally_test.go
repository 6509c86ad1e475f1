package proxy

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"
)

// TestRequestsOfAddress opens as many requests as an address may have, on several
// connections. One more is refused, and there is room again once one has ended.
func TestRequestsOfAddress(t *testing.T) {
	const most = 4
	scene := func(t *testing.T) (r *rig, let chan struct{}, now *atomic.Int32) {
		let, now = make(chan struct{}), new(atomic.Int32)
		addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
			now.Add(1)
			defer now.Add(-1)
			select {
			case <-let:
			case <-r.Context().Done():
			}
		})
		return newRig(t, site(addr), func(_ *Options, l *limits) { l.perAddress = most }), let, now
	}
	t.Run("HTTP2", func(t *testing.T) {
		r, let, now := scene(t)
		a, b := r.h2(), r.h2()
		for i := range uint32(most / 2) {
			a.request(1+2*i, plainGET, true)
			b.request(1+2*i, plainGET, true)
		}
		eventually(t, "all reach the backend", func() bool { return now.Load() == most })
		a.request(most+1, plainGET, true)
		if got := a.outcome(most + 1); got != "reset REFUSED_STREAM" {
			t.Errorf("one too many: %s", got)
		}
		b.conn.Close()
		eventually(t, "two have ended", func() bool { return now.Load() == most/2 })
		close(let)
		id := uint32(most + 1)
		eventually(t, "there is room again", func() bool {
			id += 2
			a.request(id, plainGET, true)
			return a.outcome(id) == "200"
		})
	})
	t.Run("HTTP3", func(t *testing.T) {
		r, let, now := scene(t)
		a, b := r.dialQUIC(t, "app.test"), r.dialQUIC(t, "app.test")
		head := fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head())
		open := func(qc *quic.Conn) *quic.Stream {
			str, err := qc.OpenStream()
			if err == nil {
				_, err = str.Write(head)
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = str.Close()
			return str
		}
		for range most / 2 {
			open(a)
			open(b)
		}
		eventually(t, "all reach the backend", func() bool { return now.Load() == most })
		var reset *quic.StreamError
		if _, err := open(a).Read(make([]byte, 1)); !errors.As(err, &reset) || reset.ErrorCode != h3RequestRejected {
			t.Errorf("one too many: %v", err)
		}
		_ = b.CloseWithError(h3NoError, "")
		eventually(t, "two have ended", func() bool { return now.Load() == most/2 })
		close(let)
		eventually(t, "there is room again", func() bool { return readHTTP3(open(a)).status == 200 })
	})
}
