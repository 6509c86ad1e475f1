package app_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/lab"
)

// TestSlowClients has slowhttptest attack in all of its modes at once, over TLS and
// without. Whoever else is served does not notice, and the program itself finds the
// service available all the time.
func TestSlowClients(t *testing.T) {
	lab.NeedRoot(t, "slowhttptest", "unshare")
	// The rate is not to be felt as such: a handshake costs much more than a request.
	const host, connections, rate, seconds = "slow.example.test", 300, 30, 14
	// Behind the proxy alone: in a tunnel that the race detector slows down, the
	// data that the attack is sent would be felt.
	page := strings.Repeat("not slow ", 10_000)
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }))
	t.Cleanup(behind.Close)
	s := lab.Start(t)
	_, port, err := net.SplitHostPort(behind.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": host, "target_port": port, "https_enabled": false}, nil)

	client := trusting(t, s)
	client.Timeout = 10 * time.Second // far from what a request takes
	get := func() time.Duration {
		began := time.Now()
		res, err := client.Get("https://" + host + "/")
		if err != nil {
			t.Fatalf("a request of somebody else: %v", err)
		}
		defer res.Body.Close()
		if n, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 || int(n) != len(page) {
			t.Fatalf("a request of somebody else: %s, %d bytes, %v", res.Status, n, err)
		}
		return time.Since(began)
	}
	quantiles := func(times []time.Duration) string {
		slices.Sort(times)
		return fmt.Sprintf("%d requests, median %s, 99 %% within %s", len(times), times[len(times)/2], times[len(times)*99/100])
	}
	var alone []time.Duration
	for range 500 {
		alone = append(alone, get())
	}

	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+host+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	modes := map[string][]string{
		"slow head": {"-H"}, "slow body": {"-B", "-s", "8192"}, "ranges": {"-R", "-a", "1", "-b", "3000"},
		"slow reading": {"-X", "-k", "3", "-w", "10", "-y", "20", "-n", "5", "-z", "32"},
	}
	reports := make(chan string, 2*len(modes))
	var attack sync.WaitGroup
	for scheme, addr := range map[string]string{"http": s.Addrs().HTTP, "https": s.Addrs().HTTPS} {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		for mode, flags := range modes {
			flags = append(flags, "-c", fmt.Sprint(connections), "-r", fmt.Sprint(rate), "-i", "3", "-l", fmt.Sprint(seconds), "-p", "5",
				"-u", fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(host, port)))
			attack.Go(func() {
				cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount --bind "$0" /etc/hosts && exec slowhttptest "$@"`, hosts}, flags...)...)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%s, %s: %v\n%s", mode, scheme, err, out)
				}
				reports <- mode + ", " + scheme + ":\n" + string(out)
			})
		}
	}
	over := make(chan struct{})
	go func() { attack.Wait(); close(over) }()
	defer func() { <-over }()
	var during []time.Duration
	for done := false; !done; {
		during = append(during, get())
		select {
		case <-over:
			done = true
		default:
		}
	}
	t.Logf("alone: %s; attacked: %s", quantiles(alone), quantiles(during))
	// The attack itself takes a core, so that a machine of few makes for some of this.
	if before, now := alone[len(alone)/2], during[len(during)/2]; now > 10*before+20*time.Millisecond {
		t.Errorf("half of the requests of somebody else take longer than %s, where that was %s", now, before)
	}
	close(reports)
	colour := regexp.MustCompile(`\x1b\[[0-9;]*[a-zA-Z]`)
	for r := range reports {
		r = colour.ReplaceAllString(r, "")
		if strings.Contains(r, "service available:   NO") || !strings.Contains(r, "service available:   YES") {
			t.Errorf("not available, %s", r)
		}
	}
}
