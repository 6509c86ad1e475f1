package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatecontrol/lab"
)

// kills is how often the crash test kills the server.
const kills = 50

// TestKilled kills the server at random moments during writes. After each
// restart every acknowledged write is there, and the planes run what is stored.
func TestKilled(t *testing.T) {
	bin := lab.Binary(t)
	dir := filepath.Join(t.TempDir(), "data")
	adminPort := lab.FreePort(t)
	env := append(os.Environ(), "GC_DATA_DIR="+dir, "GC_ADMIN_PASSWORD="+lab.Password, "GC_WG_HOST=127.0.0.1",
		"GC_HOST=127.0.0.1", "GC_PORT="+strconv.Itoa(adminPort), "GC_WG_PORT="+strconv.Itoa(lab.FreePort(t)),
		"GC_HTTP_LISTEN=127.0.0.1:0", "GC_HTTPS_LISTEN=127.0.0.1:0", "GC_RATE_LIMIT_API=1000000", "GC_LOG_LEVEL=error")
	admin := lab.NewClient(fmt.Sprintf("http://127.0.0.1:%d", adminPort))
	start := func() *exec.Cmd {
		cmd := exec.Command(bin, "serve")
		cmd.Env = env
		lab.StartProcess(t, cmd)
		awaitHealth(t, admin)
		return cmd
	}

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeEcho(t, target)
	var writers []*writer
	cmd := start()
	admin.Login(t, lab.User, lab.Password)
	api := admin.WithToken(admin.MakeToken(t, "full-access"))
	for i := range 4 {
		w := &writer{api: api, n: i, rand: rand.New(rand.NewPCG(seed, uint64(i))), target: target.Addr().(*net.TCPAddr).Port}
		for range 3 {
			w.ports = append(w.ports, lab.FreePort(t))
		}
		writers = append(writers, w)
	}
	moment := rand.New(rand.NewPCG(seed, 99))
	for range kills {
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, w := range writers {
			wg.Go(func() { w.run(ctx) })
		}
		time.Sleep(time.Duration(moment.IntN(80_000)) * time.Microsecond) // the random moment
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		stop()
		wg.Wait()
		cmd = start()
		verify(t, api, writers)
		if t.Failed() {
			return
		}
	}
	acknowledged := 0
	for _, w := range writers {
		acknowledged += w.acknowledged
	}
	t.Logf("%d kills, %d acknowledged writes", kills, acknowledged)
	if acknowledged < kills {
		t.Errorf("only %d writes were acknowledged: nothing was shown", acknowledged)
	}
}

// writer changes objects of its own: one peer and a few port routes.
type writer struct {
	api    *lab.Client
	n      int
	rand   *rand.Rand
	target int
	ports  []int

	objects      map[string]object // by name, as acknowledged
	doubt        string            // the name whose last write was not answered
	maybe        object            // and what it would be
	failed       error
	acknowledged int
}

// object is what is known of a peer or route; the zero value does not exist.
type object struct {
	ID      int64
	Enabled bool
	Key     string // public key of a peer
	Port    int    // of a route
}

func (w *writer) run(ctx context.Context) {
	if w.objects == nil {
		w.objects = make(map[string]object)
	}
	for ctx.Err() == nil {
		if w.rand.IntN(2) == 0 {
			w.change(ctx, fmt.Sprintf("peer %d", w.n), "peer", 0)
		} else {
			port := w.ports[w.rand.IntN(len(w.ports))]
			w.change(ctx, fmt.Sprintf("port %d", port), "route", port)
		}
		if w.doubt != "" || w.failed != nil {
			return
		}
	}
}

// change creates an object that does not exist, and toggles or deletes one that
// does.
func (w *writer) change(ctx context.Context, name, kind string, port int) {
	old := w.objects[name]
	next := old
	method, path, want := "POST", "/api/v1/"+kind+"s", 201
	var body any
	switch {
	case old.ID == 0:
		next = object{Enabled: true, Port: port}
		body = map[string]any{"name": name}
		if kind == "route" {
			body = map[string]any{"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": port, "target_port": w.target, "description": name}
		}
	case w.rand.IntN(3) == 0:
		method, path, want, next = "DELETE", fmt.Sprintf("%s/%d", path, old.ID), 200, object{}
	default:
		method, path, want, next.Enabled = "PUT", fmt.Sprintf("%s/%d/toggle", path, old.ID), 200, !old.Enabled
	}
	w.doubt, w.maybe = name, next
	var answer map[string]json.RawMessage
	status, err := w.api.Try(ctx, method, path, body, &answer)
	if err != nil {
		return // killed meanwhile: it may have happened, or not
	}
	w.doubt = ""
	if status != want {
		w.failed = fmt.Errorf("%s %s: status %d: %s", method, path, status, answer)
		return
	}
	if method == "POST" {
		var created struct {
			ID        int64
			PublicKey string `json:"public_key"`
		}
		if w.failed = json.Unmarshal(answer[kind], &created); w.failed != nil {
			return
		}
		next.ID, next.Key = created.ID, created.PublicKey
	}
	w.objects[name] = next
	w.acknowledged++
}

// verify compares what the restarted server stores with what was acknowledged,
// and what its planes do with what it stores.
func verify(t *testing.T, api *lab.Client, writers []*writer) {
	t.Helper()
	var peers struct {
		Peers []struct {
			ID        int64
			Name      string
			Enabled   int
			PublicKey string `json:"public_key"`
		}
	}
	var routes struct {
		Routes []struct {
			ID          int64
			Description string
			Enabled     int
			Port        string `json:"l4_listen_port"`
		}
	}
	api.Call(t, 200, "GET", "/api/v1/peers", nil, &peers)
	api.Call(t, 200, "GET", "/api/v1/routes", nil, &routes)
	stored := make(map[string]object)
	for _, p := range peers.Peers {
		stored[p.Name] = object{ID: p.ID, Enabled: p.Enabled == 1, Key: p.PublicKey}
	}
	for _, r := range routes.Routes {
		port, err := strconv.Atoi(r.Port)
		if err != nil {
			t.Fatal(err)
		}
		stored[r.Description] = object{ID: r.ID, Enabled: r.Enabled == 1, Port: port}
	}
	for _, w := range writers {
		if w.failed != nil {
			t.Error(w.failed)
		}
		for name, want := range w.objects {
			got := stored[name]
			inDoubt := name == w.doubt && got.Enabled == w.maybe.Enabled && (got.ID == 0) == (w.maybe == object{})
			if got != want && !inDoubt {
				t.Errorf("%s: acknowledged %+v, stored %+v", name, want, got)
			}
		}
		if w.doubt != "" {
			w.objects[w.doubt] = stored[w.doubt] // known now
			w.doubt = ""
		}
	}
	verifyPlanes(t, api, stored, writers)
}

func verifyPlanes(t *testing.T, api *lab.Client, stored map[string]object, writers []*writer) {
	t.Helper()
	var status struct {
		Peers []struct{ PublicKey string }
	}
	api.Call(t, 200, "GET", "/api/v1/wg/status", nil, &status)
	live := make(map[string]bool)
	for _, p := range status.Peers {
		live[p.PublicKey] = true
	}
	want := 0
	for name, o := range stored {
		if o.Key != "" && o.Enabled {
			want++
			if !live[o.Key] {
				t.Errorf("%s is stored as enabled, and not in the tunnel", name)
			}
		}
	}
	if len(live) != want {
		t.Errorf("%d peers in the tunnel, %d stored as enabled", len(live), want)
	}
	for _, w := range writers {
		for _, port := range w.ports {
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 2*time.Second)
			if err == nil {
				exchange(t, conn)
				_ = conn.Close()
			}
			if o := stored[fmt.Sprintf("port %d", port)]; (err == nil) != o.Enabled {
				t.Errorf("port %d: %v, stored %+v", port, err, o)
			}
		}
	}
}
