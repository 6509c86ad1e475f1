package app_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// retries tells what is asked for again, and how often (contract 6.15).
func retries(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"retry_enabled": true, "retry_count": 2, "retry_status_codes": "503"})
	out := v.outside(t)
	kept := strings.Repeat("0123456789abcdef", 64<<10) // as long as what is kept may be
	var all sync.WaitGroup                             // at once, for each waits between its attempts
	for _, c := range []struct {
		method, path     string
		body             string
		length           int64 // as it is said; -1: not at all
		status, attempts int
	}{
		{"GET", "/fail/1/", "", 0, 200, 2},
		{"GET", "/fail/2/", "", 0, 200, 3},
		{"GET", "/fail/3/", "", 0, 503, 3},
		{"GET", "/cut/2/", "", 0, 200, 3},
		{"HEAD", "/fail/1/", "", 0, 200, 2},
		{"OPTIONS", "/fail/1/", "", 0, 200, 2},
		{"DELETE", "/fail/1/", "", 0, 200, 2},
		{"PUT", "/fail/1/", "", 0, 200, 2},
		{"PUT", "/fail/1/", "text", 4, 200, 2},
		{"PUT", "/cut/1/", kept, -1, 200, 2},
		{"PUT", "/fail/1/", kept + "x", 1<<20 + 1, 503, 1},
		{"PUT", "/fail/1/", kept + "x", -1, 503, 1},
		{"PATCH", "/fail/1/", "", 0, 503, 1},
		{"POST", "/fail/1/", "", 0, 503, 1},
		{"POST", "/cut/1/", "", 0, 502, 1},
		{"POST", "/fail/1/", "text", 4, 503, 1},
	} {
		target := fmt.Sprintf("%s%s?%s,%d", c.path, domain, c.method, c.length)
		all.Go(func() {
			got, err := try(t.Context(), out, "https://"+domain+target, func(r *http.Request) {
				if r.Method = c.method; c.body != "" {
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(c.body)), c.length
				}
			})
			seen := g.alpha.of(target)
			if err != nil || got.status != c.status || len(seen) != c.attempts {
				t.Errorf("%s: %d after %d attempts, %v; want %d after %d", target, got.status, len(seen), err, c.status, c.attempts)
			}
			if want := fmt.Sprint("attempt ", c.attempts); got.status == 503 && got.body != want {
				t.Errorf("%s: the answer is %q, want that of %s", target, got.body, want)
			}
			for _, r := range seen {
				if b, _ := io.ReadAll(r.Body); string(b) != c.body || r.Method != c.method {
					t.Errorf("%s: %s with %d bytes", target, r.Method, len(b))
				}
			}
		})
	}
	all.Wait()
	if _, res, err := v.trySocket(t, out, domain, "/fail/1/"+domain, nil); err == nil || res == nil || res.StatusCode != 503 || len(g.alpha.of("/fail/1/"+domain)) != 1 {
		t.Errorf("a WebSocket: %v %v after %d attempts", res, err, len(g.alpha.of("/fail/1/"+domain)))
	}
	g.change(t, id, fields{"retry_match_status": []int{502}})
	visit(t, out, domain, "/fail/1/other/"+domain).wants(t, "another status", 503, "attempt 1")
	g.change(t, id, fields{"retry_match_status": "502,503", "retry_enabled": false})
	visit(t, out, domain, "/fail/1/off/"+domain).wants(t, "off", 503, "attempt 1")
}

// retryTime has services that fail late, or are not there yet (contract 6.15). After
// the time for them, which depends on their number, no more attempts begin; what could
// not be connected to was sent nothing, so it may be told anything again.
func retryTime(t *testing.T, g *gallery, v visitor) {
	t.Parallel() // it takes that time
	name := "late-" + strings.ToLower(v.version)
	guest := g.exhibit(t, name)
	out := v.outside(t)
	var all sync.WaitGroup
	defer all.Wait()
	for _, c := range []struct {
		count, status int
		body          string
	}{
		{1, 503, "attempt 1"},
		{4, 200, name + ":8000 GET /late/1/four"},
	} {
		_, domain := g.show(t, fields{"peer_id": guest.id, "retry_enabled": true, "retry_count": c.count})
		path := map[int]string{1: "/late/1/one", 4: "/late/1/four"}[c.count]
		all.Go(func() {
			if got, err := try(t.Context(), out, "https://"+domain+path); err != nil || got.status != c.status || got.body != c.body {
				t.Errorf("%d attempts at most: %d %q %v, want %d %q", 1+c.count, got.status, got.body, err, c.status, c.body)
			}
		})
	}
	_, domain := g.show(t, fields{"peer_id": guest.id, "target_port": 8002, "retry_enabled": true, "retry_count": 10})
	const long = 2 << 20 // more than is kept
	all.Go(func() {
		got, err := try(t.Context(), out, "https://"+domain+"/soon", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(io.LimitReader(&counting{}, long)), long
		})
		if err != nil || got.status != 200 || got.body != name+":8002 POST /soon" {
			t.Errorf("a service that comes back: %d %q, %v", got.status, got.body, err)
		} else if n, _ := io.Copy(io.Discard, guest.of("/soon")[0].Body); n != long {
			t.Errorf("a service that comes back: %d bytes of %d", n, long)
		}
	})
	socket := make(chan struct{})
	all.Go(func() {
		defer close(socket)
		if _, res, err := v.trySocket(t, out, domain, "/ws", nil); err == nil || res == nil || res.StatusCode != 502 {
			t.Errorf("a WebSocket: %v, %v", res, err)
		}
	})
	<-time.After(500 * time.Millisecond) // two attempts, and eight to go
	select {
	case <-socket:
	case <-time.After(time.Second):
	}
	guest.serve(t, name, 8002)
}
