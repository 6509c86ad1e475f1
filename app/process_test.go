package app_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gatecontrol/lab"
)

// startProcess runs the built server inside ns on a new data directory, with
// more settings as NAME=value, and returns a client with a token for everything.
// dir is the data directory.
func startProcess(t testing.TB, ns *lab.Namespace, settings ...string) (api *lab.Client, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	return runProcess(t, ns, ns.Cmd(lab.Binary(t), "serve"), dir, settings...), dir
}

// runProcess runs cmd, which is the server inside ns, on dir until it is healthy.
func runProcess(t testing.TB, ns *lab.Namespace, cmd *exec.Cmd, dir string, settings ...string) (api *lab.Client) {
	t.Helper()
	cmd.Env = append(append(os.Environ(),
		"GC_DATA_DIR="+dir, "GC_ADMIN_PASSWORD="+lab.Password, "GC_RATE_LIMIT_API=1000000",
		"GC_HTTP_LISTEN=:8080", "GC_HTTPS_LISTEN=:8443"), settings...)
	lab.StartProcess(t, cmd)
	admin := lab.NewClient("http://127.0.0.1:3000")
	admin.HTTP.Transport = &http.Transport{DialContext: ns.DialContext}
	t.Cleanup(admin.HTTP.CloseIdleConnections)
	awaitHealth(t, admin)
	admin.Login(t, lab.User, lab.Password)
	return admin.WithToken(admin.MakeToken(t, "full-access"))
}

// awaitHealth waits until a server that was started works.
func awaitHealth(t testing.TB, c *lab.Client) {
	t.Helper()
	lab.Eventually(t, 20*time.Second, "health", func() error {
		if status, err := c.Try(t.Context(), "GET", "/health", nil, nil); err != nil || status != 200 {
			return fmt.Errorf("status %d: %w", status, err)
		}
		return nil
	})
}

// joinProcess creates a peer by the API and joins it from ns with wireguard-go
// and the config that the server wrote, but for the endpoint.
func joinProcess(t testing.TB, api *lab.Client, name, endpoint string, ns *lab.Namespace, wireguardGo string) (id int64, p *lab.ForeignPeer) {
	t.Helper()
	var created struct{ Peer struct{ ID int64 } }
	api.Call(t, 201, "POST", "/api/v1/peers", map[string]any{"name": name, "hostname": name}, &created)
	var config string
	api.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d/config", created.Peer.ID), nil, &config)
	config = endpointLine.ReplaceAllString(config, "Endpoint = "+endpoint)
	return created.Peer.ID, lab.JoinForeign(t, ns, wireguardGo, config)
}

// trustIn is a TLS configuration of somebody who trusts the server's authority,
// whose certificate is in the data directory dir.
func trustIn(t testing.TB, dir string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: roots}
}
