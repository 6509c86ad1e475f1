package app_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestDocumentedCommands runs the commands of the public documentation as a
// person would paste them, with host and token filled in.
func TestDocumentedCommands(t *testing.T) {
	for _, program := range []string{"curl", "jq", "bash"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs the program %s", program)
		}
	}
	port := lab.FreePort(t)
	base := "https://localhost:" + strconv.Itoa(port)
	s := lab.Start(t, func(o *app.Options) {
		o.BaseURL = base
		o.HTTPSListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	})
	for range 7 { // the documentation disables route 7
		s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
			"domain": "r" + strconv.Itoa(lab.FreePort(t)) + ".example.test", "target_port": 9,
		}, nil)
	}
	dir := t.TempDir()
	run := func(t *testing.T, command string) string {
		t.Helper()
		command = strings.ReplaceAll(command, "https://gate.example.com", base)
		command = strings.ReplaceAll(command, "password=…", "password="+lab.Password)
		cmd := exec.Command("bash", "-ec", "set -o pipefail; "+command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TOKEN="+s.API.Token, "CURL_CA_BUNDLE="+filepath.Join(s.Dir, "ca.pem"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return strings.TrimSpace(string(out))
	}
	for _, c := range []struct {
		name, command string
		check         func(t *testing.T, out string)
	}{
		{"session login", `curl -c cookies.txt -X POST https://gate.example.com/login \
  -d "username=admin&password=…"`, func(t *testing.T, _ string) {
			raw, err := os.ReadFile(filepath.Join(dir, "cookies.txt"))
			if err != nil || !strings.Contains(string(raw), "gc.sid") {
				t.Errorf("no session cookie: %v %s", err, raw)
			}
		}},
		{"session call", `curl -b cookies.txt https://gate.example.com/api/v1/peers`, contains(`"ok":true`, `"peers":[`)},
		{"token call", `curl -H "Authorization: Bearer $TOKEN" https://gate.example.com/api/v1/peers`, contains(`"ok":true`)},
		{"create a peer", `curl -X POST https://gate.example.com/api/v1/peers \
  -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \
  -d '{"name":"Laptop","description":"Travel device","tags":"Desktop"}' \
  | jq .peer.id`, func(t *testing.T, out string) {
			if n, err := strconv.Atoi(out); err != nil || n <= 0 {
				t.Errorf("not an id: %q", out)
			}
		}},
		{"create a gateway peer", `curl -X POST https://gate.example.com/api/v1/peers \
  -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \
  -d '{"name":"NAS1","is_gateway":true,"api_port":9876}' \
  | jq -r .gateway.envContent > gateway.env; cat gateway.env`,
			contains("GC_GATEWAY_TOKEN=", "GC_API_TOKEN=gc_gw_", "WG_PRIVATE_KEY=", "GC_API_PORT=9876")},
		{"today's traffic", `curl -H "Authorization: Bearer $TOKEN" \
  https://gate.example.com/api/v1/dashboard/stats | jq .traffic.today`, func(t *testing.T, out string) {
			if _, err := strconv.ParseUint(out, 10, 64); err != nil {
				t.Errorf("not a number of bytes: %q", out)
			}
		}},
		{"disable a route", `curl -X PUT -H "Authorization: Bearer $TOKEN" \
  https://gate.example.com/api/v1/routes/7/toggle`, contains(`"ok":true`, `"id":7`, `"enabled":0`)},
		{"save a backup", `curl -H "Authorization: Bearer $TOKEN" \
  "https://gate.example.com/api/v1/settings/backup?format=download" \
  -o backup-$(date -u +%F).json; jq -c '[.version, (.data.peers|length), (.data.routes|length)]' backup-*.json`,
			contains("[4,2,7]")},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, run(t, c.command)) })
	}
}

func contains(want ...string) func(*testing.T, string) {
	return func(t *testing.T, out string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("no %q in %s", w, out)
			}
		}
	}
}
