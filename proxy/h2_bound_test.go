package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
)

// TestH2UploadMemory has a client send faster than the backend reads: what is kept
// of the body has to do with the window, not with how long the body is.
func TestH2UploadMemory(t *testing.T) {
	const size = 24 << 20
	var most atomic.Int64
	var r *rig
	addr := backend(t, func(w http.ResponseWriter, req *http.Request) {
		buf := make([]byte, 16<<10)
		for n := 0; ; n++ {
			if _, err := req.Body.Read(buf); err != nil {
				return
			}
			if n%16 == 0 { // which also gives the client time to fill the window
				most.Store(max(most.Load(), r.h2Kept()))
			}
		}
	})
	r = newRig(t, site(addr))
	req, _ := http.NewRequest("POST", "https://app.test/", io.NopCloser(random(size)))
	resp, err := r.via2().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if got := most.Load(); got > h2StreamWindow*3/2 {
		t.Errorf("%d KiB are kept of a body, the window is %d KiB", got>>10, h2StreamWindow>>10)
	}
}

// h2Kept is the memory that bodies of requests take on all HTTP/2 connections.
func (r *rig) h2Kept() (sum int64) {
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for c := range r.srv.conns {
		if h := c.h2.Load(); h != nil {
			h.mu.Lock()
			for _, st := range h.streams {
				sum += int64(cap(st.in))
			}
			h.mu.Unlock()
		}
	}
	return sum
}
