package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"gatecontrol/model"
)

// faulty is a connection to a backend that panics over what it reads.
type faulty struct{ net.Conn }

func (c faulty) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.Contains(p[:n], []byte("FAULT")) {
		panic("fault")
	}
	return n, err
}

// TestPanicInAnswer has an answer meet a panic after its head and a part of its body
// have gone. The client sees that it was cut, the log says so once and by whose
// request, and with streams the others of the connection notice nothing.
func TestPanicInAnswer(t *testing.T) {
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		read, let := make(chan struct{}), make(chan struct{})
		addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			if r.URL.Path == "/fault" {
				<-read
				_, _ = io.WriteString(w, "FAULT")
				return
			}
			<-let
			_, _ = io.WriteString(w, " and the rest")
		})
		var seen observer
		r := newRig(t, site(addr), func(o *Options, _ *limits) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
				c, err := dial(ctx, network, to)
				return faulty{c}, err
			}
			o.Observe = seen.observe
		})
		c := via(r)
		other, err := c.Get("https://app.test/other")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Get("https://app.test/fault")
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 4)
		if _, err := io.ReadFull(resp.Body, part); err != nil || string(part) != "part" {
			t.Fatalf("%q, %v", part, err)
		}
		close(read)
		if rest, err := io.ReadAll(resp.Body); err == nil || len(rest) > 0 {
			t.Errorf("the rest: %q, %v", rest, err)
		} else if major := resp.ProtoMajor; major == 2 && !strings.Contains(err.Error(), "INTERNAL_ERROR") ||
			major == 3 && !strings.Contains(err.Error(), "H3_INTERNAL_ERROR") {
			t.Errorf("the end: %v", err)
		}
		resp.Body.Close()
		got := seen.take(t)
		if got.Status != 200 || got.Cut != model.CutByProxy {
			t.Errorf("recorded %+v", got)
		}
		close(let)
		if body := readAll(t, other); body != "part and the rest" {
			t.Errorf("the other: %q", body)
		}
		eventually(t, "one connection is open, that of the other", func() bool {
			r.srv.mu.Lock()
			defer r.srv.mu.Unlock()
			return len(r.srv.conns)+len(r.srv.h3conns) == 1
		})
		log := r.log.String()
		if strings.Count(log, "panic in") != 1 || !strings.Contains(log, "request="+hex.EncodeToString(got.ID[:])) {
			t.Errorf("logged: %s", log)
		}
	})
}
