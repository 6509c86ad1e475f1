package app_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/demo"
)

// exhibit is a peer, and the service on its ports 8000 and 8001.
type exhibit struct {
	id   int64
	peer *demo.Peer

	mu   *sync.Mutex
	more *sync.Cond       // of mu: one more was seen
	seen *[]*http.Request // of the service, in order
}

func newExhibit(id int64) exhibit {
	e := exhibit{id: id, mu: new(sync.Mutex), seen: new([]*http.Request)}
	e.more = sync.NewCond(e.mu)
	return e
}

func (g *gallery) exhibit(t *testing.T, name string) exhibit {
	t.Helper()
	id, p := g.s.Peer(t, name)
	e := newExhibit(id)
	e.peer = p
	for _, port := range []uint16{8000, 8001} {
		e.serve(t, name, port)
	}
	return e
}

// serve opens the service on a port, until stop is called.
func (e exhibit) serve(t *testing.T, name string, port uint16) (stop func()) {
	t.Helper()
	ln, err := e.peer.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: e.handler(name, port)}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	stop = func() { _ = srv.Close() }
	t.Cleanup(stop)
	return stop
}

// handler tells who it is and what it was asked for. /long is a text of 4 KiB, which
// has parts, and is said to be of any type and in any coding; /hop has fields that end
// at the next hop; /fail/2/x, /cut/2/x and /late/2/x fail twice, see failure.
func (e exhibit) handler(name string, port uint16) http.HandlerFunc {
	var mu sync.Mutex
	asked := make(map[string]int) // how often, by target
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			e.note(r)
		}
		if stream(w, r) {
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		e.note(r)
		mu.Lock()
		asked[r.RequestURI]++
		n := asked[r.RequestURI]
		mu.Unlock()
		w.Header().Set("Content-Type", "text/plain")
		switch {
		case failure(w, r, n):
		case r.URL.Path == "/long":
			q := r.URL.Query()
			w.Header()["Content-Encoding"] = q["coding"]
			if q.Has("type") {
				w.Header().Set("Content-Type", q.Get("type"))
			}
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(strings.Repeat("all work and no play ", 200)))
		case r.URL.Path == "/hop":
			for name, value := range map[string]string{
				"Connection": "X-Back", "X-Back": "1", "Keep-Alive": "timeout=9", "Proxy-Authenticate": "Basic", "Via": "1.1 inner", "X-Kept": "1",
			} {
				w.Header().Set(name, value)
			}
		default:
			_, _ = fmt.Fprintf(w, "%s:%d %s %s", name, port, r.Method, r.RequestURI)
		}
	}
}

// lateness is longer than what is left of the time for repetitions of few attempts.
const lateness = 5500 * time.Millisecond

// failure ends the n-th request for a target as its path says, and reports whether it
// did: /fail with the status 503, /cut without an answer, /late with 503 late.
func failure(w http.ResponseWriter, r *http.Request, n int) bool {
	part := strings.Split(r.URL.Path, "/")
	if len(part) < 4 {
		return false
	}
	if times, err := strconv.Atoi(part[2]); err != nil || n > times {
		return false
	}
	switch part[1] {
	case "cut":
		panic(http.ErrAbortHandler)
	case "late":
		select {
		case <-time.After(lateness):
		case <-r.Context().Done():
		}
	case "fail":
	default:
		return false
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = fmt.Fprintf(w, "attempt %d", n)
	return true
}

func (e exhibit) note(r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*e.seen = append(*e.seen, r)
	e.more.Broadcast()
}

// last is the last request that e got.
func (e exhibit) last(t *testing.T) *http.Request {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(*e.seen) == 0 {
		t.Fatal("the service got no request")
	}
	return (*e.seen)[len(*e.seen)-1]
}

// wait waits until e has got n requests in all, and returns the last of these.
func (e exhibit) wait(t *testing.T, n int) *http.Request {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	late := time.AfterFunc(11*time.Second, e.more.Broadcast)
	defer late.Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(*e.seen) < n {
		if !time.Now().Before(end) {
			t.Fatalf("%d requests in 10 s, want %d", len(*e.seen), n)
		}
		e.more.Wait()
	}
	return (*e.seen)[n-1]
}

func (e exhibit) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(*e.seen)
}

// of are the requests that e got for a target.
func (e exhibit) of(target string) (list []*http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range *e.seen {
		if r.RequestURI == target {
			list = append(list, r)
		}
	}
	return list
}
