package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatecontrol/model"
)

// TestCertificateForPeople writes the copy once, keeps it, mends it, and goes
// on where it cannot be written.
func TestCertificateForPeople(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	path := filepath.Join(t.TempDir(), caFile)
	cert := []byte("certificate")
	leaveCertificate(path, cert, log)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	leaveCertificate(path, cert, log)
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("an equal copy was written anew: %v", err)
	}
	leaveCertificate(path, []byte("another"), log)
	if got, err := os.ReadFile(path); err != nil || string(got) != "another" {
		t.Errorf("%q %v", got, err)
	}
	if logged.Len() != 0 {
		t.Errorf("logged: %s", &logged)
	}
	leaveCertificate(filepath.Join(path, "not", "a", "directory"), cert, log)
	if !strings.Contains(logged.String(), "could not be written") {
		t.Errorf("logged: %q", &logged)
	}
}

// TestDerivedKeys are the same after a restart, and none is another one or the key
// that they follow from.
func TestDerivedKeys(t *testing.T) {
	server, other := model.NewPrivateKey(), model.NewPrivateKey()
	keys := map[string]string{}
	for name, key := range map[string]model.PrivateKey{"server": server, "other": other} {
		for range 2 {
			sticky, err := stickyKey(key)
			if err != nil {
				t.Fatal(err)
			}
			reset, err := resetKey(key)
			if err != nil {
				t.Fatal(err)
			}
			for what, b := range map[string][]byte{"sticky": sticky, "reset": reset[:], "itself": key[:]} {
				if was := keys[name+what]; was != "" && was != string(b) {
					t.Errorf("%s of %s is another one the next time", what, name)
				}
				keys[name+what] = string(b)
			}
		}
	}
	distinct := map[string]bool{}
	for _, k := range keys {
		distinct[k] = true
	}
	if len(distinct) != 6 {
		t.Errorf("%d keys that differ", len(distinct))
	}
}
