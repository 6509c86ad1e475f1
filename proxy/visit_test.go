package proxy

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
)

// observer keeps what a rig's Server tells of requests.
type observer struct {
	mu   sync.Mutex
	list []model.AccessRecord
}

func (o *observer) observe(r *model.AccessRecord) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := *r
	for _, p := range []*[]byte{&c.Host, &c.Method, &c.URI, &c.UserAgent} {
		*p = append([]byte(nil), *p...)
	}
	o.list = append(o.list, c)
}

// take waits for the next record and removes it.
func (o *observer) take(t testing.TB) model.AccessRecord {
	t.Helper()
	var r model.AccessRecord
	eventually(t, "a record", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.list) == 0 {
			return false
		}
		r, o.list = o.list[0], o.list[1:]
		return true
	})
	return r
}

func TestAccessRecords(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 16<<10) // 256 KiB
	cut := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/small":
			io.WriteString(w, "12345")
		case "/long":
			io.WriteString(w, long)
		case "/events":
			for range 3 {
				io.WriteString(w, "data: x\n\n")
				w.(http.Flusher).Flush()
			}
		case "/hang":
			<-r.Context().Done()
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, long); err != nil {
					return
				}
			}
		case "/cut":
			w.Header().Set("Content-Length", "1000000")
			io.WriteString(w, long)
			w.(http.Flusher).Flush()
			<-cut
			panic(http.ErrAbortHandler)
		}
	})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := netip.MustParseAddrPort(gone.Addr().String())
	gone.Close()
	cfg := Config{Routes: []Route{
		{ID: 1, Host: "app.test", Target: Target{Addr: addr}},
		{ID: 2, Host: "dead.test", Target: Target{Addr: dead}},
		{ID: 3, Host: "shut.test", Target: Target{Addr: addr}, Options: &RouteOptions{ACL: new(ACL)}},
	}}
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		var seen observer
		r := newRig(t, cfg, func(o *Options, l *limits) {
			o.Observe = seen.observe
			l.patience = 20 * time.Millisecond
		})
		c := via(r)
		for _, tt := range []struct {
			name, method, url string
			leave             int64 // read so much of the answer and leave; -1: all of it, 0: without an answer
			want              model.AccessRecord
		}{
			{"small", "GET", "https://app.test/small?q=1", -1, model.AccessRecord{Status: 200, Size: 5, Route: 1, Upstream: addr}},
			{"long", "GET", "https://app.test/long", -1, model.AccessRecord{Status: 200, Size: 256 << 10, Route: 1, Upstream: addr}},
			{"without a length", "GET", "https://app.test/events", -1, model.AccessRecord{Status: 200, Size: 27, Route: 1, Upstream: addr}},
			{"head", "HEAD", "https://app.test/long", -1, model.AccessRecord{Status: 200, Route: 1, Upstream: addr}},
			{"share link", "GET", "https://app.test/route-auth/share/AbCdEf", -1, model.AccessRecord{Status: 200, Route: 1, Upstream: addr, URI: []byte("/route-auth/share/[redacted]")}},
			{"token", "GET", "https://app.test/small?a=b&access_token=AbC&c", -1, model.AccessRecord{Status: 200, Size: 5, Route: 1, Upstream: addr, URI: []byte("/small?a=b&access_token=[redacted]&c")}},
			{"no backend", "GET", "https://dead.test/", -1, model.AccessRecord{Status: 502, Size: -1, Route: 2, Upstream: dead}},
			{"refused", "POST", "https://shut.test/", -1, model.AccessRecord{Status: 403, Size: -1, Route: 3, Refused: "peer_acl", Reason: "the client is not a peer of the list"}},
			{"left before the answer", "GET", "https://app.test/hang", 0, model.AccessRecord{Status: 499, Route: 1, Upstream: addr}},
			{"left within the answer", "GET", "https://app.test/endless", 1000, model.AccessRecord{Status: 200, Size: -1, Route: 1, Upstream: addr, Cut: model.CutByClient}},
			{"cut by the backend", "GET", "https://app.test/cut", 200_000, model.AccessRecord{Status: 200, Size: 256 << 10, Route: 1, Upstream: addr, Cut: model.CutByBackend}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, tt.method, tt.url, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("User-Agent", "observed/1")
				if tt.leave == 0 {
					time.AfterFunc(100*time.Millisecond, cancel)
				}
				resp, err := c.Do(req)
				if err != nil && tt.leave != 0 {
					t.Fatal(err)
				}
				if err == nil && tt.leave == 0 { // closing takes a while, and what comes meanwhile may be read
					resp.Body.Close()
					resp = nil
				}
				id := ""
				if resp != nil {
					id = resp.Header.Get("X-Request-Id")
					limit := tt.leave
					if limit < 0 {
						limit = 1 << 30
					}
					n, err := io.CopyN(io.Discard, resp.Body, limit)
					if err != nil && err != io.EOF {
						t.Error(err)
					}
					if tt.want.Cut == model.CutByBackend {
						cut <- struct{}{}
						if _, err := io.Copy(io.Discard, resp.Body); err == nil {
							t.Error("the answer ended clean")
						}
					}
					resp.Body.Close()
					if tt.want.Size == -1 && tt.leave < 0 {
						tt.want.Size = n
					}
				}
				got := seen.take(t)
				if tt.want.Size == -1 {
					if got.Size < tt.leave {
						t.Errorf("size %d", got.Size)
					}
					tt.want.Size = got.Size
				}
				if got.Status != tt.want.Status || got.Size != tt.want.Size || got.Route != tt.want.Route || got.Upstream != tt.want.Upstream ||
					got.Refused != tt.want.Refused || got.Reason != tt.want.Reason || got.Cut != tt.want.Cut {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
				uri := string(tt.want.URI)
				if uri == "" {
					uri = req.URL.RequestURI()
				}
				if string(got.Method) != tt.method || string(got.Host) != req.URL.Host || string(got.URI) != uri || string(got.UserAgent) != "observed/1" {
					t.Errorf("%s %s%s by %s", got.Method, got.Host, got.URI, got.UserAgent)
				}
				if resp != nil && got.Proto != fmt.Sprintf("HTTP/%d.%d", resp.ProtoMajor, resp.ProtoMinor) || !got.TLS || got.Remote != netip.MustParseAddr(stranger) {
					t.Errorf("%s, TLS %v, from %s", got.Proto, got.TLS, got.Remote)
				}
				if got.At.Before(began) || got.Duration <= 0 || got.Duration > time.Since(began) {
					t.Errorf("at %v for %v", got.At, got.Duration)
				}
				if id != "" && id != hex.EncodeToString(got.ID[:]) {
					t.Errorf("shown %s, recorded %x", id, got.ID)
				}
				if (id == "") != (got.Upstream == addr) {
					t.Errorf("request id %q", id)
				}
			})
		}
	})
}

// TestAccessRecordOfUpgrade has bytes in both directions after the switch.
func TestAccessRecordOfUpgrade(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, br)
	})
	var seen observer
	r := newRig(t, site(addr), func(o *Options, _ *limits) { o.Observe = seen.observe })
	c := r.dial()
	io.WriteString(c, "GET /up?token=x HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(err)
	}
	io.WriteString(c, "hello")
	if b, err := br.Peek(5); err != nil || string(b) != "hello" {
		t.Fatal(err)
	}
	c.Close()
	got := seen.take(t)
	if got.Status != 101 || got.Size != 5 || string(got.URI) != "/up?token=[redacted]" || got.Route != 1 {
		t.Errorf("%+v", got)
	}
}

// TestAccessRecordUnframed is an answer without a length to an HTTP/1.0 client.
func TestAccessRecordUnframed(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "one")
		w.(http.Flusher).Flush()
		io.WriteString(w, "two")
	})
	var seen observer
	r := newRig(t, site(addr), func(o *Options, _ *limits) { o.Observe = seen.observe })
	if got := r.raw("GET /x HTTP/1.0\r\nHost: app.test\r\n\r\n"); !strings.HasSuffix(got, "onetwo") {
		t.Errorf("%q", got)
	}
	if got := seen.take(t); got.Status != 200 || got.Size != 6 || got.Proto != "HTTP/1.0" || string(got.URI) != "/x" {
		t.Errorf("%+v", got)
	}
}

// TestAccessRecordOfBadHead tells of a head that nobody may see, and nothing of it.
func TestAccessRecordOfBadHead(t *testing.T) {
	var seen observer
	r := newRig(t, Config{}, func(o *Options, _ *limits) { o.Observe = seen.observe })
	answer := r.raw("GET /secret HTTP/1.1\r\nHost: app.test\r\nBad Name: x\r\n\r\n")
	got := seen.take(t)
	if got.Status != 400 || got.Refused != "head" || len(got.URI)+len(got.Host)+len(got.Method) > 0 || got.Remote != netip.MustParseAddr(stranger) {
		t.Errorf("%+v", got)
	}
	if id := hex.EncodeToString(got.ID[:]); strings.Count(answer, id) != 2 || strings.Contains(answer, "secret") {
		t.Errorf("%s is to be in the head and the text of %q", id, answer)
	}
}

// TestAccessRecordOfCompressed counts what the client got.
func TestAccessRecordOfCompressed(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for range 20 {
			io.WriteString(w, strings.Repeat("the same again and again ", 4000))
			w.(http.Flusher).Flush()
		}
	})
	var seen observer
	r := newRig(t, gated(addr, RouteOptions{Compress: true}), func(o *Options, _ *limits) { o.Observe = seen.observe })
	req, _ := http.NewRequest("GET", "https://app.test/", nil)
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := r.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body := readAll(t, resp)
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("encoding %q", resp.Header.Get("Content-Encoding"))
	}
	if got := seen.take(t); got.Size != int64(len(body)) || got.Cut != "" {
		t.Errorf("the client got %d bytes, recorded %+v", len(body), got)
	}
}

// TestPanicInGate: a gate that fails lets nobody in.
func TestPanicInGate(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { t.Error("the backend was asked") })
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		var seen observer
		filter := &model.IPFilter{Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: model.RuleCountry, Value: "GB"}}}
		r := newRig(t, gated(addr, RouteOptions{IPFilter: filter}), func(o *Options, _ *limits) { o.Observe = seen.observe })
		for i := range r.srv.snapshot.Load().routes[1].gates {
			r.srv.snapshot.Load().routes[1].gates[i].gate = panicking{}
		}
		resp, err := via(r).Get("https://app.test/")
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if got := seen.take(t); resp.StatusCode != 500 || got.Status != 500 || hex.EncodeToString(got.ID[:]) != resp.Header.Get("X-Request-Id") {
			t.Errorf("%d, recorded %+v", resp.StatusCode, got)
		}
		if !strings.Contains(r.log.String(), "panic in request") {
			t.Error("nothing was logged")
		}
	})
}

// panicking is a gate with a fault.
type panicking struct{}

func (panicking) check(*visit) *verdict { panic("fault") }

func TestRedaction(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"/", "/"},
		{"/a?b", "/a?b"},
		{"/route-auth/share/", "/route-auth/share/"},
		{"/route-auth/share/x/y?z=1", "/route-auth/share/[redacted]?z=1"},
		{"/route-auth/login?redirect=/route-auth/", "/route-auth/login?redirect=/route-auth/"},
		{"/?token=", "/?token="},
		{"/?Token=a;b=c&API_KEY=d&e=f", "/?Token=[redacted];b=c&API_KEY=[redacted]&e=f"},
		{"/?password=a?b=c", "/?password=[redacted]"},
		{"/?%74oken=x&%zz=y&a%6", "/?%74oken=[redacted]&%zz=y&a%6"},
		{"/?code=1&codec=2", "/?code=[redacted]&codec=2"},
		{"/??sig=a", "/??sig=a"},
		{"/?sig=a&&", "/?sig=[redacted]&&"},
	} {
		got := string(appendRedacted(nil, []byte(tt.in)))
		if got != tt.want || got != tt.in && !needsRedaction([]byte(tt.in)) {
			t.Errorf("%s became %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestTrace(t *testing.T) {
	release := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-release
		}
		io.WriteString(w, "12345")
	})
	traced := gated(addr, RouteOptions{Trace: true, IPFilter: &model.IPFilter{Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: model.RuleIP, Value: peerTwo}}}})
	r := newRig(t, traced)
	if list := r.srv.Trace(1, 10, time.Time{}).Entries; len(list) != 0 {
		t.Errorf("before any request: %v", list)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		get(t, r.client(), "http://app.test/wait?token=x")
	}()
	eventually(t, "the request is noted", func() bool { return len(r.srv.Trace(1, 10, time.Time{}).Entries) == 1 })
	e := r.srv.Trace(1, 10, time.Time{}).Entries[0]
	if e.Status != 0 || e.Method != "GET" || e.URI != "/wait?token=[redacted]" || e.Host != "app.test" || e.Remote != netip.MustParseAddr(stranger) ||
		e.UserAgent != "Go-http-client/1.1" || len(e.ID) != 32 || e.At.IsZero() || e.At != e.At.Truncate(time.Millisecond) {
		t.Errorf("while it runs: %+v", e)
	}
	close(release)
	<-done
	if e := r.srv.Trace(1, 10, time.Time{}).Entries[0]; e.Status != 200 || e.Size != 5 {
		t.Errorf("afterwards: %+v", e)
	}
	if list := r.srv.Trace(1, 10, e.At).Entries; len(list) != 0 {
		t.Errorf("after the newest: %v", list)
	}
	get(t, r.clientFrom(peerTwo), "http://app.test/refused")
	if e := r.srv.Trace(1, 10, time.Time{}).Entries[0]; e.Status != 403 || e.Refused != "ip_filter" || e.Remote != netip.MustParseAddr(peerTwo) {
		t.Errorf("a refused one: %+v", e)
	}
	r.commit(traced)
	c := r.client()
	for i := range traceLength + 5 {
		get(t, c, fmt.Sprintf("http://app.test/%d", i))
	}
	list := r.srv.Trace(1, 1000, time.Time{}).Entries
	if len(list) != traceLength || list[0].URI != fmt.Sprintf("/%d", traceLength+4) || list[traceLength-1].URI != "/5" {
		t.Errorf("%d entries from %s to %s", len(list), list[0].URI, list[len(list)-1].URI)
	}
	if list := r.srv.Trace(1, 2, time.Time{}).Entries; len(list) != 2 || list[0].URI != fmt.Sprintf("/%d", traceLength+4) {
		t.Errorf("the newest two: %v", list)
	}
	r.commit(site(addr))
	r.commit(traced)
	if list := r.srv.Trace(1, 10, time.Time{}).Entries; len(list) != 0 {
		t.Errorf("after it was off: %v", list)
	}
}
