package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/lab/acme"
	"gatecontrol/model"
	"gatecontrol/store"
)

// TestKilledDuringIssuance kills the server at points of an order, before the
// authority does what it is asked, and when it has but its answer is not sent. The next
// start gets the certificate with one more order at most, from the same account, and
// what is stored is whole.
func TestKilledDuringIssuance(t *testing.T) {
	t.Run("before there is an account", func(t *testing.T) {
		killDuringIssuance(t, []killPoint{{"before the account", acme.AccountPath, false, false}})
	})
	t.Run("from the account on", func(t *testing.T) {
		points := []killPoint{
			{"with an account that it does not know of", acme.AccountPath, true, false},
			{"before the order", acme.OrderPath, false, false},
			{"with an order that it does not know of", acme.OrderPath, true, false},
			{"before the challenge is read", acme.AuthzPath, true, false},
			{"before the challenge is taken up", acme.ChallengePath, false, false},
			{"when the challenge is taken up", acme.ChallengePath, true, false},
			{"before the order is finalized", acme.FinalizePath, false, false},
			{"when the order is finalized", acme.FinalizePath, true, false},
			{"before the certificate is sent", acme.CertPath, false, false},
			{"when the certificate is issued", acme.CertPath, true, false},
		}
		for i := range 6 {
			points = append(points, killPoint{fmt.Sprintf("while the certificate is stored, %d", i), acme.CertPath, true, true})
		}
		killDuringIssuance(t, points)
	})
}

// killPoint is when the server dies.
type killPoint struct {
	name, path string
	answered   bool // the authority has done it; its answer is not sent
	later      bool // the answer is sent, and what follows is under way
}

// killDuringIssuance takes a name to its certificate for each point, in turn.
func killDuringIssuance(t *testing.T, points []killPoint) {
	zone := acme.NewZone(t)
	authority := acme.New(t, acme.Options{Name: "ca.example", Resolver: zone.Addr})
	bin, dir := lab.Binary(t), filepath.Join(t.TempDir(), "data")
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	httpPort, httpsPort, adminPort := lab.FreePort(t), lab.FreePort(t), lab.FreePort(t)
	authority.Check(httpPort, httpsPort)
	key := model.Secret(strings.Repeat("ab", 32))
	env := append(os.Environ(), "GC_DATA_DIR="+dir, "GC_ADMIN_PASSWORD="+lab.Password, "GC_ENCRYPTION_KEY="+key.Reveal(), "GC_WG_HOST=127.0.0.1",
		"GC_HOST=127.0.0.1", "GC_PORT="+strconv.Itoa(adminPort), "GC_WG_PORT="+strconv.Itoa(lab.FreePort(t)), "GC_RATE_LIMIT_API=1000000",
		fmt.Sprintf("GC_HTTP_LISTEN=127.0.0.1:%d", httpPort), fmt.Sprintf("GC_HTTPS_LISTEN=127.0.0.1:%d", httpsPort),
		"GC_ACME_CA="+authority.Directory, "GC_ACME_CA_ROOT="+root, "GC_ACME_EMAIL=admin@gate.example", "GC_LOG_LEVEL=warn")
	admin := lab.NewClient(fmt.Sprintf("http://127.0.0.1:%d", adminPort))
	var running atomic.Pointer[exec.Cmd]
	start := func() {
		t.Helper()
		cmd := exec.Command(bin, "serve")
		cmd.Env = env
		lab.StartProcess(t, cmd)
		running.Store(cmd)
		awaitHealth(t, admin)
	}
	start()
	admin.Login(t, lab.User, lab.Password)
	api := admin.WithToken(admin.MakeToken(t, "full-access"))

	// verified is the certificate of a name, if it is one of the authority.
	verified := func(name string) (*x509.Certificate, error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{ServerName: name, RootCAs: authority.Roots}}
		c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", httpsPort))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
	}

	var armed atomic.Pointer[killPoint]
	died := make(chan struct{}, 1)
	kill := func(p *killPoint) {
		if !armed.CompareAndSwap(p, nil) {
			return
		}
		end := func() {
			_ = running.Load().Process.Kill()
			died <- struct{}{}
		}
		if p.later {
			time.AfterFunc(time.Duration(rand.IntN(10_000))*time.Microsecond, end) // the random moment
			return
		}
		end()
	}
	var accounts atomic.Int32
	authority.Interfere(func(_ http.ResponseWriter, r *http.Request) bool {
		if p := armed.Load(); p != nil && !p.answered && strings.HasPrefix(r.URL.Path, p.path) {
			kill(p)
			return true // nothing is done
		}
		return false
	})
	authority.Watch(func(r *http.Request, status int) {
		if r.URL.Path == acme.AccountPath && status == http.StatusCreated {
			accounts.Add(1)
		}
		if p := armed.Load(); p != nil && p.answered && status < 400 && strings.HasPrefix(r.URL.Path, p.path) {
			kill(p)
		}
	})

	shown := map[string]*x509.Certificate{}
	for i := range points {
		p := &points[i]
		name := fmt.Sprintf("k%d.example.com", i)
		before := authority.Orders.Load()
		armed.Store(p)
		status, err := api.Try(t.Context(), "POST", "/api/v1/routes", map[string]any{"domain": name, "target_port": lab.FreePort(t)}, nil)
		if err == nil && status != 201 { // it may die before it answers
			t.Fatalf("%s: status %d", p.name, status)
		}
		select {
		case <-died:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not reached", p.name)
		}
		_ = running.Load().Wait()
		start()
		lab.Eventually(t, 30*time.Second, p.name+": a certificate", func() (err error) {
			shown[name], err = verified(name)
			return err
		})
		if n := authority.Orders.Load() - before; n > 2 {
			t.Errorf("%s: %d orders", p.name, n)
		}
	}
	var list certificates
	api.Call(t, 200, "GET", "/api/v1/certificates", nil, &list)
	for name, first := range shown {
		if c, err := verified(name); err != nil || !c.Equal(first) {
			t.Errorf("%s shows another certificate in the end: %v", name, err)
		}
		if state := list.state(name); state != "valid" {
			t.Errorf("%s is %s", name, state)
		}
	}
	if n := accounts.Load(); n != 1 {
		t.Errorf("%d accounts", n)
	}
	lab.StopProcess(running.Load())
	wholeCertificates(t, dir, key, len(points))
}

// wholeCertificates checks what is stored of certificates: want of them, each with its
// chain, key and notes. An attempt that was cut off after that may still be noted as
// under way: the certificate tells that it was not.
func wholeCertificates(t *testing.T, dir string, key model.Secret, want int) {
	t.Helper()
	sealer, err := store.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.Options{Dir: dir, Sealer: sealer, Log: lab.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	blobs := db.Blobs()
	load := func(key string) []byte {
		t.Helper()
		value, _, err := blobs.Load(context.Background(), key)
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		return value
	}
	keys, err := blobs.List(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string][]string{}
	for _, k := range keys {
		switch {
		case strings.HasPrefix(k, "certificates/"):
			kinds[path.Dir(k)] = append(kinds[path.Dir(k)], path.Ext(k))
		case strings.HasPrefix(k, "attempts/"):
			if text := string(load(k)); !strings.Contains(text, `"cut":1`) && !strings.Contains(text, `"issued"`) {
				t.Errorf("%s: %s", k, text)
			}
		}
	}
	if len(kinds) != want {
		t.Errorf("%d certificates, want %d", len(kinds), want)
	}
	for dir, ext := range kinds {
		base := dir + "/" + path.Base(dir)
		if _, err := tls.X509KeyPair(load(base+".crt"), load(base+".key")); err != nil || len(ext) != 3 || len(load(base+".json")) == 0 {
			t.Errorf("%s: %v, %v", dir, ext, err)
		}
	}
}
