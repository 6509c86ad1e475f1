package app_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"gatecontrol/lab"
)

// TestFloodLeavesTheAdministration has a stranger open connections to a port route
// until the server takes no more, under a limit of files as small systems have it.
// The administration goes on.
func TestFloodLeavesTheAdministration(t *testing.T) {
	const files, tries = 400, 500
	adminPort, port := lab.FreePort(t), lab.FreePort(t)
	cmd := exec.Command("bash", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" serve`, files), lab.Binary(t))
	cmd.Env = append(os.Environ(), "GC_DATA_DIR="+filepath.Join(t.TempDir(), "data"), "GC_ADMIN_PASSWORD="+lab.Password,
		"GC_HOST=127.0.0.1", "GC_PORT="+strconv.Itoa(adminPort), "GC_WG_PORT="+strconv.Itoa(lab.FreePort(t)),
		"GC_HTTP_LISTEN=127.0.0.1:0", "GC_HTTPS_LISTEN=127.0.0.1:0", "GC_LOG_LEVEL=error")
	lab.StartProcess(t, cmd)
	admin := lab.NewClient(fmt.Sprintf("http://127.0.0.1:%d", adminPort))
	awaitHealth(t, admin)
	admin.Login(t, lab.User, lab.Password)
	api := admin.WithToken(admin.MakeToken(t, "full-access"))
	var created struct{ Peer struct{ ID int64 } }
	api.Call(t, 201, "POST", "/api/v1/peers", map[string]any{"name": "away"}, &created) // a dial to it lasts
	api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": strconv.Itoa(port), "l4_tls_mode": "none",
		"peer_id": created.Peer.ID, "target_port": 80,
	}, nil)
	var first net.Conn
	for range tries {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if first == nil {
			first = c
		}
	}
	awaitHealth(t, lab.NewClient(admin.Base)) // on a new connection
	_ = first.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it had ended by then: %v", err)
	}
}
