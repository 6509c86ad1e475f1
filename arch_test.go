// Package gatecontrol_test keeps the table of ARCHITECTURE.md true: which
// package may import which.
package gatecontrol_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "gatecontrol"

// mayImport lists, for each package of ours, the patterns of those of ours that
// it may import. A pattern that ends in /... means everything below.
var mayImport = map[string][]string{
	"model":             {},
	"store":             {"model"},
	"store/storetest":   {"model", "store"},
	"wireguard":         {"model"},
	"netstack":          {"model", "wireguard"},
	"l4":                {"model"},
	"dns":               {"model"},
	"proxy":             {"model"},
	"geoip":             {},
	"proxy/certs":       {"model", "proxy/dns01"},
	"proxy/dns01":       {"model"},
	"telemetry":         {"model", "store"},
	"control/events":    {"model", "store"},
	"control/accounts":  {"model", "store", "control/events"},
	"control/peers":     {"model", "store", "control/events"},
	"control/routes":    {"model", "store", "control/events"},
	"control/settings":  {"model", "store", "control/events"},
	"control/backup":    {"model", "store", "control/events"},
	"control/certs":     {"model", "store", "control/events"},
	"control/windows":   {"model", "store", "control/events"},
	"control/reconcile": {"model", "store", "netstack", "l4", "dns", "proxy", "telemetry"},
	"api": {"model", "telemetry", "control/events", "control/accounts", "control/peers",
		"control/routes", "control/settings", "control/backup", "control/certs", "control/windows"},
	"demo":            {},
	"app":             {"..."},
	"lab":             {"..."},
	"lab/acme":        {},
	"lab/relay":       {},
	"cmd/gatecontrol": {"app", "model"},
}

// testsOnly are packages that no program contains.
var testsOnly = map[string]bool{"lab": true, "lab/acme": true, "lab/relay": true, "store/storetest": true}

// ownedModules are libraries that only some packages may import, mostly one.
var ownedModules = map[string][]string{
	"go.etcd.io/bbolt":                 {"store"},
	"github.com/valyala/fasthttp":      {"proxy"},
	"github.com/miekg/dns":             {"dns", "proxy/dns01", "lab/acme"},
	"github.com/oschwald/maxminddb":    {"geoip"},
	"gvisor.dev/gvisor":                {"netstack"},
	"github.com/danielgtaylor/huma":    {"api"},
	"github.com/caddyserver/certmagic": {"proxy/certs"},
	"github.com/mholt/acmez":           {"proxy/certs"},
	"go.uber.org/zap":                  {"proxy/certs"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Dir        string
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if pkg == "" {
			continue // this test
		}
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s is not in the table: say what it may import", pkg)
			continue
		}
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module+"/"); ok && (!matches(allowed, ours) || testsOnly[ours]) {
				t.Errorf("%s imports %s", pkg, ours)
			}
			for prefix, owners := range ownedModules {
				if strings.HasPrefix(imp, prefix) && !slices.Contains(owners, pkg) {
					t.Errorf("%s imports %s, which belongs to %s", pkg, imp, strings.Join(owners, " and "))
				}
			}
		}
	}
}

// TestTableHasNoEmptyRooms refuses entries for packages that do not exist.
func TestTableHasNoEmptyRooms(t *testing.T) {
	have := make(map[string]bool)
	for _, p := range list(t) {
		have[strings.TrimPrefix(p.ImportPath, module+"/")] = true
	}
	for pkg := range mayImport {
		if !have[pkg] {
			t.Errorf("%s is in the table but does not exist", pkg)
		}
	}
}

func matches(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, pkg); ok || p == "..." {
			return true
		}
	}
	return false
}

func list(t *testing.T) []listed {
	t.Helper()
	// With the profile, packages are listed once more as variants for the command.
	out, err := exec.Command("go", "list", "-pgo=off", "-json=ImportPath,Imports,Dir", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		// That this is read, too, keeps a result of another tree from being reused.
		if _, err := os.ReadDir(p.Dir); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}
