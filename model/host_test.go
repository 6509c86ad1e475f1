package model

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNormalizeHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, tt := range []struct {
		in, want string
		ok       bool
	}{
		{"example.test", "example.test", true},
		{"EXAMPLE.Test", "example.test", true},
		{"example.test.", "example.test", true},
		{"example.test.:8080", "example.test", true},
		{"example.test:1", "example.test", true},
		{"example.test:65535", "example.test", true},
		{"localhost", "localhost", true},
		{"_dmarc.a-b.test", "_dmarc.a-b.test", true},
		{"127.0.0.1:80", "127.0.0.1", true},
		{"[::1]", "::1", true},
		{"[2001:DB8:0::1]:443", "2001:db8::1", true},
		{long + "." + long + "." + long + "." + long[:61], long + "." + long + "." + long + "." + long[:61], true},

		{"", "", false},
		{".", "", false},
		{"..", "", false},
		{"example.test..", "", false},
		{".example.test", "", false},
		{"a..b", "", false},
		{long + "a.test", "", false},
		{long + "." + long + "." + long + "." + long[:62], "", false},
		{"example.test:", "", false},
		{"example.test:0", "", false},
		{"example.test:65536", "", false},
		{"example.test:080808", "", false},
		{"example.test:+80", "", false},
		{":80", "", false},
		{"a:1:2", "", false},
		{"::1", "", false},
		{"[::1", "", false},
		{"[::1]80", "", false},
		{"[::1]:", "", false},
		{"[fe80::1%25eth0]", "", false},
		{"[127.0.0.1]", "", false},
		{"user@example.test", "", false},
		{"a,b", "", false},
		{"a b", "", false},
		{"a/b", "", false},
		{"a%2eb", "", false},
		{"bücher.test", "", false},
		{"a\x00b", "", false},
		{"*.test", "", false},
	} {
		if got, ok := NormalizeHost(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %q %v, want %q %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzNormalizeHost(f *testing.F) {
	for _, s := range []string{"a.test", "A.TEST.:80", "[::1]:443", "127.0.0.1", "a..b", "a:b", "[::ffff:1.2.3.4]", "x.:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := NormalizeHost(s)
		if !ok {
			if got != "" {
				t.Fatalf("%q was refused and is %q", s, got)
			}
			return
		}
		if got == "" || strings.ToLower(got) != got || strings.HasSuffix(got, ".") {
			t.Fatalf("%q became %q", s, got)
		}
		again := got
		if addr, err := netip.ParseAddr(got); err == nil && addr.Is6() {
			again = "[" + got + "]"
		}
		if twice, ok := NormalizeHost(again); !ok || twice != got {
			t.Fatalf("%q became %q, and that %q %v", s, got, twice, ok)
		}
		if port := HostPort([]byte(s)); port != 0 && !strings.Contains(s, ":") {
			t.Fatalf("%q has port %d", s, port)
		}
	})
}
