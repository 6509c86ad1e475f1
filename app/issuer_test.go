package app

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatecontrol/model"
	"gatecontrol/proxy"
)

func TestIssuers(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, _, err := proxy.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		o     Options
		want  string // directories, in their order
		field string // of the error
	}{
		{"by itself", Options{TLSIssuer: "auto"}, letsEncrypt, ""},
		{"to try out", Options{TLSIssuer: "auto", ACMEStaging: true}, letsEncryptStaging, ""},
		{"the own one", Options{TLSIssuer: "internal", ACMECA: []string{"https://ca.example/dir"}}, "", ""},
		{"two", Options{TLSIssuer: "auto", ACMECA: []string{"https://ca.example/dir", " " + letsEncrypt}}, "https://ca.example/dir " + letsEncrypt, ""},
		{"a private one", Options{TLSIssuer: "acme", ACMECA: []string{"https://ca.lan:9000/acme/directory"}, ACMECARoot: file("root.pem", string(root))}, "https://ca.lan:9000/acme/directory", ""},
		{"an account", Options{TLSIssuer: "auto", ACMEEmail: "admin@example.com", ACMEKeyID: "kid", ACMEKey: "key"}, letsEncrypt, ""},
		{"plain HTTP", Options{TLSIssuer: "auto", ACMECA: []string{"http://ca.example/dir"}}, "", "GC_ACME_CA"},
		{"no address", Options{TLSIssuer: "auto", ACMECA: []string{"letsencrypt"}}, "", "GC_ACME_CA"},
		{"half an account", Options{TLSIssuer: "auto", ACMEKeyID: "kid"}, "", "GC_ACME_EAB_KEY_ID"},
		{"no e-mail", Options{TLSIssuer: "auto", ACMEEmail: "admin"}, "", "GC_ACME_EMAIL"},
		{"two e-mails", Options{TLSIssuer: "auto", ACMEEmail: "a@example.com,b@example.com"}, "", "GC_ACME_EMAIL"},
		{"no such file", Options{TLSIssuer: "auto", ACMECARoot: filepath.Join(dir, "none")}, "", "GC_ACME_CA_ROOT"},
		{"no certificate", Options{TLSIssuer: "auto", ACMECARoot: file("text", "hello")}, "", "GC_ACME_CA_ROOT"},
		{"a key", Options{TLSIssuer: "auto", ACMECARoot: file("key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})))}, "", "GC_ACME_CA_ROOT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &checked{Options: tt.o}
			var bad model.Invalids
			s.checkIssuer(&bad)
			err := bad.Err()
			if tt.field != "" {
				if err == nil || !strings.Contains(err.Error(), tt.field) {
					t.Errorf("%v", err)
				}
				return
			}
			var got []string
			for _, ca := range s.cas {
				got = append(got, ca.Directory)
			}
			if err != nil || strings.Join(got, " ") != tt.want || (s.acmeRoots != nil) != (tt.o.ACMECARoot != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
