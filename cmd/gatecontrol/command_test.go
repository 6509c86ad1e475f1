package main_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatecontrol/lab"
)

func TestMain(m *testing.M) {
	code := m.Run()
	lab.RemoveBinary()
	os.Exit(code)
}

// instance is a data directory and ports of its own.
type instance struct {
	bin, dir string
	port     int
	env      []string
	user     *syscall.Credential // nil: who runs the test
}

func newInstance(t *testing.T) *instance {
	t.Helper()
	i := &instance{bin: lab.Binary(t), dir: filepath.Join(t.TempDir(), "data"), port: lab.FreePort(t)}
	i.env = append(os.Environ(), "GC_DATA_DIR="+i.dir, "GC_ADMIN_PASSWORD="+lab.Password, "GC_HOST=127.0.0.1",
		"GC_PORT="+strconv.Itoa(i.port), "GC_HTTP_LISTEN=127.0.0.1:0", "GC_HTTPS_LISTEN=127.0.0.1:0",
		"GC_WG_HOST=127.0.0.1", "GC_WG_PORT="+strconv.Itoa(lab.FreePort(t)), "GC_LOG_LEVEL=error")
	return i
}

// run runs a command to its end and returns what it printed and its status.
func (i *instance) run(t *testing.T, extra []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, i.bin, args...)
	cmd.Env = append(i.env, extra...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.user}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (i *instance) start(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(i.bin, "serve")
	cmd.Env = i.env
	lab.StartProcess(t, cmd)
	client := lab.NewClient(fmt.Sprintf("http://127.0.0.1:%d", i.port))
	t.Cleanup(client.HTTP.CloseIdleConnections)
	lab.Eventually(t, 20*time.Second, "health", func() error {
		status, err := client.Try(t.Context(), "GET", "/health", nil, nil)
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	return cmd
}

// TestRefusesToStart starts under every impossible condition: one line that
// says what to do, status 1, and what was there is as it was.
func TestRefusesToStart(t *testing.T) {
	write := func(name string, b []byte) func(*testing.T, *instance) []string {
		return func(t *testing.T, i *instance) []string {
			if err := os.WriteFile(filepath.Join(i.dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			return nil
		}
	}
	env := func(list ...string) func(*testing.T, *instance) []string {
		return func(*testing.T, *instance) []string { return list }
	}
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *instance) []string // returns variables
		want    string                               // part of the line
	}{
		{"garbage for a store", write("gatecontrol.db", []byte("this is not a store, but it is long enough to be looked at, over and over, again and again")), "gatecontrol.db is damaged"},
		{"truncated store", func(t *testing.T, i *instance) []string {
			if err := os.Truncate(filepath.Join(i.dir, "gatecontrol.db"), 20000); err != nil {
				t.Fatal(err)
			}
			return nil
		}, "gatecontrol.db is damaged"},
		{"garbage for a history", write("history.db", []byte("neither is this one, and it is also long enough to be looked at, over and over, again")), "history.db is damaged"},
		{"garbage for a key", write(".encryption_key", []byte("no key\n")), ".encryption_key does not hold 64 hex characters"},
		{"another key", env("GC_ENCRYPTION_KEY=" + strings.Repeat("ab", 32)), "not the one that sealed"},
		{"missing key", func(t *testing.T, i *instance) []string {
			if err := os.Remove(filepath.Join(i.dir, ".encryption_key")); err != nil {
				t.Fatal(err)
			}
			return nil
		}, ".encryption_key is missing"},
		{"unreadable store", unreadable("gatecontrol.db"), "gatecontrol.db cannot be"},
		{"unreadable key", unreadable(".encryption_key"), ".encryption_key cannot be read"},
		{"taken web port", func(t *testing.T, i *instance) []string {
			return []string{"GC_HTTPS_LISTEN=" + hold(t)}
		}, "GC_HTTPS_LISTEN: another process uses the port"},
		{"taken admin port", func(t *testing.T, i *instance) []string {
			_, port, _ := net.SplitHostPort(hold(t))
			return []string{"GC_PORT=" + port}
		}, "GC_HOST and GC_PORT: another process uses the port"},
		{"taken WireGuard port", func(t *testing.T, i *instance) []string {
			pc, err := net.ListenPacket("udp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = pc.Close() })
			return []string{fmt.Sprintf("GC_WG_PORT=%d", pc.LocalAddr().(*net.UDPAddr).Port)}
		}, "GC_WG_PORT"},
		{"impossible subnet", env("GC_WG_SUBNET=10.8.0.0/31"), "GC_WG_SUBNET"},
		{"no network at all", env("GC_WG_SUBNET=tunnel"), "GC_WG_SUBNET"},
		{"gateway outside", env("GC_WG_GATEWAY_IP=10.9.0.1"), "GC_WG_GATEWAY_IP"},
		{"port out of range", env("GC_PORT=70000"), "GC_PORT"},
		{"broken URL", env("GC_BASE_URL=gate.example.com"), "GC_BASE_URL"},
		{"broken server key", env("GC_WG_PRIVATE_KEY=abc"), "GC_WG_PRIVATE_KEY"},
		{"broken encryption key", env("GC_ENCRYPTION_KEY=abc"), "GC_ENCRYPTION_KEY"},
		{"broken upstream", env("GC_DNS_UPSTREAMS=ftp://x"), "GC_DNS_UPSTREAMS"},
		{"public network in the tunnel", env("GC_WG_SUBNET6=2001:db8::/64"), "GC_WG_SUBNET6"},
		{"IPv6 network without room", env("GC_WG_SUBNET6=fd00::/124"), "GC_WG_SUBNET6"},
		{"MTU too small for IPv6", env("GC_WG_SUBNET6=auto", "GC_WG_MTU=1200"), "GC_WG_MTU"},
		{"small MTU", env("GC_WG_MTU=100"), "GC_WG_MTU"},
		{"missing file of a value", env("GC_ADMIN_PASSWORD_FILE=/nowhere/password"), "GC_ADMIN_PASSWORD_FILE"},
		{"unknown issuer", env("GC_TLS_ISSUER=paper"), "tls-issuer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newInstance(t)
			lab.StopProcess(i.start(t)) // a store that works
			extra := c.prepare(t, i)
			before := contents(t, i.dir)
			_, stderr, status := i.run(t, extra, "serve")
			if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("status %d, want 1 and one line with %q:\n%s", status, c.want, stderr)
			}
			for name, want := range before {
				if got := contents(t, i.dir)[name]; got != want {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
}

// unreadable takes the rights to a file away. Nothing is unreadable for root,
// so then the server runs as somebody else, who owns all the rest.
func unreadable(name string) func(*testing.T, *instance) []string {
	return func(t *testing.T, i *instance) []string {
		if os.Getuid() == 0 {
			i.user = &syscall.Credential{Uid: 65534, Gid: 65534}
			for _, path := range []string{i.dir, filepath.Join(i.dir, "gatecontrol.db"), filepath.Join(i.dir, "history.db"), filepath.Join(i.dir, ".encryption_key")} {
				if err := os.Chown(path, 65534, 65534); err != nil {
					t.Fatal(err)
				}
			}
			for dir := filepath.Dir(i.dir); dir != os.TempDir(); dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o711); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Chmod(filepath.Join(i.dir, name), 0); err != nil {
			t.Fatal(err)
		}
		return nil
	}
}

func TestFirstPasswordIsNotChangeme(t *testing.T) {
	i := newInstance(t)
	_, stderr, status := i.run(t, []string{"GC_ADMIN_PASSWORD=changeme"}, "serve")
	if status != 1 || !strings.Contains(stderr, "GC_ADMIN_PASSWORD") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d: %s", status, stderr)
	}
}

func TestSecondProcess(t *testing.T) {
	i := newInstance(t)
	i.start(t)
	start := time.Now()
	_, stderr, status := i.run(t, []string{fmt.Sprint("GC_PORT=", lab.FreePort(t)), fmt.Sprint("GC_WG_PORT=", lab.FreePort(t))}, "serve")
	if status != 1 || !strings.Contains(stderr, "another gatecontrol process uses") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d: %s", status, stderr)
	}
	t.Logf("refused after %v", time.Since(start))
}

func TestHealthcheck(t *testing.T) {
	i := newInstance(t)
	if _, stderr, status := i.run(t, nil, "healthcheck"); status != 1 || !strings.Contains(stderr, "not reachable") {
		t.Errorf("nothing runs: status %d: %s", status, stderr)
	}
	i.start(t)
	if out, stderr, status := i.run(t, nil, "healthcheck"); status != 0 || !strings.Contains(out, `"ok":true`) {
		t.Errorf("status %d: %s%s", status, out, stderr)
	}
}

func TestVersion(t *testing.T) {
	i := newInstance(t)
	if out, _, status := i.run(t, nil, "version"); status != 0 || !strings.HasPrefix(out, "gatecontrol ") {
		t.Errorf("status %d: %s", status, out)
	}
}

// TestRecover resets the administrator's password on a server that runs and on
// one that does not.
func TestRecover(t *testing.T) {
	i := newInstance(t)
	client := lab.NewClient(fmt.Sprintf("http://127.0.0.1:%d", i.port))
	t.Cleanup(client.HTTP.CloseIdleConnections)
	login := func(password string) int {
		status, err := client.Try(t.Context(), "POST", "/login", map[string]string{"username": lab.User, "password": password}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	recovered := func() string {
		out, stderr, status := i.run(t, nil, "recover")
		_, rest, found := strings.Cut(out, "Password: ")
		if status != 0 || !found {
			t.Fatalf("status %d: %s%s", status, out, stderr)
		}
		password, _, _ := strings.Cut(rest, "\n")
		return password
	}
	server := i.start(t)
	running := recovered()
	if login(lab.Password) == 200 || login(running) != 200 {
		t.Error("recover on the running server: the old password works, or the new one does not")
	}
	lab.StopProcess(server)
	stopped := recovered()
	i.start(t)
	if login(running) == 200 || login(stopped) != 200 {
		t.Error("recover on the store: the old password works, or the new one does not")
	}
}

func hold(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, name := range []string{"gatecontrol.db", "history.db", ".encryption_key"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			m[name] = string(b)
		}
	}
	return m
}
