package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"gatecontrol/model"
)

func mirrored(cfg Config, addrs ...netip.AddrPort) Config {
	if cfg.Routes[0].Options == nil {
		cfg.Routes[0].Options = new(RouteOptions)
	}
	for _, a := range addrs {
		cfg.Routes[0].Options.Mirrors = append(cfg.Routes[0].Options.Mirrors, Target{Addr: a})
	}
	return cfg
}

// seen is a request as a mirror got it.
type seen struct {
	*http.Request
	body string
}

// mirror starts a backend that tells what it got.
func mirror(t testing.TB) (netip.AddrPort, chan seen) {
	got := make(chan seen, 100)
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r, string(b)}
		http.Error(w, "the answer of a mirror", 500)
	}), got
}

func await(t testing.TB, from chan seen) seen {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("no copy arrived")
		panic("unreachable")
	}
}

// settled waits until no copy is on its way, and returns the counts.
func (r *rig) settled() MirrorCounts {
	r.t.Helper()
	eventually(r.t, "all copies are done", func() bool {
		return r.srv.mirrors.open.Load() == 0 && r.srv.copiedBodies.left.Load() == copyBudget
	})
	return r.srv.MirrorCounts()
}

func TestMirror(t *testing.T) {
	primary := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "primary ", n)
	})
	for _, tt := range []struct {
		name, method string
		size         int
		chunked      bool
		without      bool // the copy has no body
	}{
		{name: "GET", method: "GET"},
		{name: "HEAD", method: "HEAD"},
		{name: "POST without a body", method: "POST"},
		{name: "small", method: "POST", size: 1000},
		{name: "100 KiB", method: "PUT", size: 100 << 10},
		{name: "100 KiB in chunks", method: "PATCH", size: 100 << 10, chunked: true},
		{name: "just what is copied", method: "POST", size: maxMirrored},
		{name: "more", method: "POST", size: maxMirrored + 1, without: true},
		{name: "more in chunks", method: "POST", size: maxMirrored + 1, chunked: true, without: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				addr, got := mirror(t)
				cfg := mirrored(stickySite(primary), addr)
				cfg.Routes[0].Options.Paths = []Path{{Prefix: "/a", Strip: true}}
				cfg = withHeaders(cfg, []model.HeaderField{{Name: "X-Custom", Value: "set"}}, nil)
				r := newRig(t, cfg)
				var body io.Reader
				if tt.size > 0 {
					body = io.LimitReader(new(pattern), int64(tt.size))
				}
				req, _ := http.NewRequest(tt.method, "https://app.test/a/%2e/b?c=%zz", body)
				if !tt.chunked {
					req.ContentLength = int64(tt.size)
				}
				for _, f := range []string{"X-Gateway-Target: evil:1", "X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Custom: forged", "X-Other: kept",
					"Cookie: gc.sid=1; mine=2; gc.route.sid=3; gc_sticky=4", "Authorization: Bearer of-the-backend"} {
					name, value, _ := strings.Cut(f, ": ")
					req.Header.Set(name, value)
				}
				resp, err := via(r).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if b := readAll(t, resp); resp.StatusCode != 200 || tt.method != "HEAD" && b != fmt.Sprint("primary ", tt.size) {
					t.Errorf("%d %q", resp.StatusCode, b)
				}
				c := await(t, got)
				if c.Method != tt.method || c.RequestURI != "/a/%2e/b?c=%zz" || c.Host != "app.test" {
					t.Errorf("%s %s %s", c.Method, c.Host, c.RequestURI)
				}
				want := tt.size
				if tt.without {
					want = 0
				}
				var check checker
				io.WriteString(&check, c.body)
				if len(c.body) != want || check.wrong || c.ContentLength != int64(want) || len(c.TransferEncoding) > 0 {
					t.Errorf("%d bytes, wrong %v, length %d, %v", len(c.body), check.wrong, c.ContentLength, c.TransferEncoding)
				}
				for name, want := range map[string]string{"X-Gateway-Target": "", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.test",
					"X-Real-Ip": "127.0.0.1", "X-Custom": "set", "X-Other": "kept", "Cookie": "mine=2", "Authorization": "Bearer of-the-backend"} {
					if got := strings.Join(c.Header[name], "|"); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
				if n := r.settled(); n != (MirrorCounts{Sent: 1}) {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// TestMirrorLogin has the proxy itself ask for a password.
func TestMirrorLogin(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("pass"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	addr, got := mirror(t)
	cfg := mirrored(site(named(t, "a")), addr)
	cfg.Routes[0].Options.BasicAuth = &model.BasicAuth{Enabled: true, User: "user", Hash: string(hash)}
	r := newRig(t, cfg)
	req, _ := http.NewRequest("GET", "https://app.test/", nil)
	if resp, err := r.client().Do(req); err != nil || resp.StatusCode != 401 {
		t.Fatal(err)
	} else {
		readAll(t, resp)
	}
	req.SetBasicAuth("user", "pass")
	resp, err := r.client().Do(req)
	if err != nil || readAll(t, resp) != "a" {
		t.Fatal(err)
	}
	if c := await(t, got); c.Header.Get("Authorization") != "" {
		t.Error("the mirror got the password")
	}
	if n := r.settled(); n.Sent != 1 {
		t.Errorf("%+v: who was refused is mirrored", n)
	}
}

func TestMirrorSeveral(t *testing.T) {
	var addrs []netip.AddrPort
	var all []chan seen
	for range model.MaxMirrors - 1 {
		addr, got := mirror(t)
		addrs, all = append(addrs, addr), append(all, got)
	}
	addrs = append(addrs, netip.MustParseAddrPort("127.0.0.1:1"))
	r := newRig(t, mirrored(site(named(t, "a")), addrs...))
	for i := range 3 {
		body := strings.Repeat("x", 50_000*(i+1))
		resp, err := r.client().Post("https://app.test/", "", strings.NewReader(body))
		if err != nil || readAll(t, resp) != "a" {
			t.Fatal(err)
		}
		for _, got := range all {
			if c := await(t, got); c.body != body {
				t.Errorf("%d bytes, want %d", len(c.body), len(body))
			}
		}
	}
	if n := r.settled(); n != (MirrorCounts{Sent: 12, Failed: 3}) {
		t.Errorf("%+v", n)
	}
	if n := strings.Count(r.log.String(), "mirror failed"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// TestMirrorHangs has mirrors that take copies and do not answer: requests do not
// wait for them, and their number is bounded.
func TestMirrorHangs(t *testing.T) {
	var taken atomic.Int32
	hangs := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			taken.Add(1)
			io.Copy(io.Discard, br)
		}
	})
	r := newRig(t, mirrored(site(named(t, "a")), hangs), func(_ *Options, l *limits) { l.copying = 700 * time.Millisecond })
	c := r.client()
	for range maxCopies {
		if _, body := get(t, c, "https://app.test/"); body != "a" {
			t.Fatal(body)
		}
	}
	eventually(t, "all are taken", func() bool { return int(taken.Load())+int(r.srv.mirrors.failed.Load()) >= maxCopies })
	if open := r.srv.mirrors.open.Load(); open == maxCopies { // unless this machine is very slow
		for range 20 {
			get(t, c, "https://app.test/")
		}
		if n := r.srv.MirrorCounts(); n.Dropped < 1 {
			t.Errorf("%+v with %d open", n, r.srv.mirrors.open.Load())
		}
	}
	if n := r.settled(); n.Sent != 0 || n.Failed < maxCopies || n.Failed+n.Dropped > maxCopies+20 {
		t.Errorf("%+v", n)
	}
}

func TestMirrorNot(t *testing.T) {
	t.Run("upgrades", func(t *testing.T) {
		addr, got := mirror(t)
		r := newRig(t, mirrored(site(rawUpgrade(t, switching, func(net.Conn, *bufio.Reader) {})), addr))
		r.raw("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
		if n := r.settled(); n != (MirrorCounts{}) || len(got) > 0 {
			t.Errorf("%+v", n)
		}
	})
	t.Run("half a body", func(t *testing.T) {
		addr, got := mirror(t)
		r := newRig(t, mirrored(site(named(t, "a")), addr))
		c := r.dial()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 300000\r\n\r\n%s", strings.Repeat("x", 200_000))
		c.Close()
		eventually(t, "it is dropped", func() bool { return r.srv.MirrorCounts().Dropped == 1 })
		if n := r.settled(); n != (MirrorCounts{Dropped: 1}) || len(got) > 0 {
			t.Errorf("%+v", n)
		}
	})
	t.Run("without memory", func(t *testing.T) {
		addr, got := mirror(t)
		r := newRig(t, mirrored(site(named(t, "a")), addr))
		r.srv.copiedBodies.left.Store(4 * pieceSize)
		for _, size := range []int{100_000, 100} {
			resp, err := r.client().Post("https://app.test/", "", strings.NewReader(strings.Repeat("x", size)))
			if err != nil || readAll(t, resp) != "a" {
				t.Fatal(err)
			}
		}
		if c := await(t, got); len(c.body) != 100 {
			t.Errorf("%d bytes", len(c.body))
		}
		r.srv.copiedBodies.left.Add(copyBudget - 4*pieceSize)
		if n := r.settled(); n != (MirrorCounts{Sent: 1, Dropped: 1}) {
			t.Errorf("%+v", n)
		}
	})
}

// TestMirrorRetry sends a request more than once, and its copy only once.
func TestMirrorRetry(t *testing.T) {
	primary, tries := failing(t, 2, 503)
	addr, got := mirror(t)
	r := newRig(t, mirrored(retrying(site(primary), 3, 503), addr), soon)
	body := strings.Repeat("x", 200_000)
	req, _ := http.NewRequest("PUT", "https://app.test/", strings.NewReader(body))
	resp, err := r.client().Do(req)
	if err != nil || readAll(t, resp) != body || tries.Load() != 3 {
		t.Fatal(err, tries.Load())
	}
	if c := await(t, got); c.body != body {
		t.Errorf("%d bytes", len(c.body))
	}
	if n := r.settled(); n != (MirrorCounts{Sent: 1}) {
		t.Errorf("%+v", n)
	}
}

func TestMirrorRefused(t *testing.T) {
	addr := netip.MustParseAddrPort("10.8.0.3:80")
	own := Target{Addr: netip.MustParseAddrPort("10.8.0.2:80")} // as refused has it
	refused(t, RouteOptions{Mirrors: make([]Target, model.MaxMirrors+1)}, "mirror_targets")
	refused(t, RouteOptions{Mirrors: []Target{{Addr: addr}, {}}}, "mirror_targets[1]")
	refused(t, RouteOptions{Mirrors: []Target{{Addr: addr}, own}}, "mirror_targets[1]")
	refused(t, RouteOptions{Mirrors: []Target{{Addr: addr}}, Backends: []Backend{{own, 1}, {Target{Addr: addr}, 1}}}, "mirror_targets[0]")
}

// TestMirrorBulk moves much both ways while everything is mirrored. With
// GATECONTROL_HEAVY=1 it is 5 GiB each way.
func TestMirrorBulk(t *testing.T) {
	size := int64(64 << 20)
	if os.Getenv("GATECONTROL_HEAVY") != "" {
		size = 5 << 30
	}
	primary := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			var c checker
			_, err := io.Copy(&c, r.Body)
			fmt.Fprintf(w, "%d %v %v", c.n, c.wrong, err)
			return
		}
		io.CopyN(w, new(pattern), size)
	})
	addr, got := mirror(t)
	const bound = 48 << 20 // three bodies of the longest kind wait for the one that became too long
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, mirrored(site(primary), addr))
		c := via(r)
		for _, length := range []int64{size, -1} {
			began := time.Now()
			grew := heapGrowth(func() {
				req, _ := http.NewRequest("POST", "https://app.test/", io.LimitReader(new(pattern), size))
				req.ContentLength = length
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := readAll(t, resp), fmt.Sprintf("%d false <nil>", size); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
			if copied := await(t, got); len(copied.body) != 0 || grew > bound {
				t.Errorf("%d bytes copied, heap grew by %d MiB", len(copied.body), grew>>20)
			}
			t.Logf("up %d MiB in %v, heap grew by %d MiB", size>>20, time.Since(began).Round(time.Millisecond), grew>>20)
		}
		began := time.Now()
		grew := heapGrowth(func() {
			resp, err := c.Get("https://app.test/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var c checker
			if _, err := io.Copy(&c, resp.Body); c.n != size || c.wrong || err != nil {
				t.Errorf("%d bytes, wrong %v, %v", c.n, c.wrong, err)
			}
		})
		if await(t, got); grew > bound {
			t.Errorf("heap grew by %d MiB", grew>>20)
		}
		t.Logf("down %d MiB in %v, heap grew by %d MiB", size>>20, time.Since(began).Round(time.Millisecond), grew>>20)
	})
}
