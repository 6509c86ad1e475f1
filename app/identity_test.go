package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
