package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func TestReverseName(t *testing.T) {
	for _, text := range []string{"10.8.0.1", "255.200.99.0", "0.0.0.0", "::", "::1", "fd12:3456:789a::ff"} {
		want, err := dns.ReverseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		wire := []byte(reverseName(netip.MustParseAddr(text)))
		got, end, err := dns.UnpackDomainName(wire, 0)
		if err != nil || end != len(wire) || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestWireName(t *testing.T) {
	for text, want := range map[string]string{
		"nas":             "\x03nas\x00",
		"Web.NAS.":        "\x03web\x03nas\x00",
		"_dmarc.a-b.c":    "\x06_dmarc\x03a-b\x01c\x00",
		"xn--bcher-kva.x": "\x0dxn--bcher-kva\x01x\x00",
		"":                "",
		".":               "",
		"a..b":            "",
		"-a":              "",
		"a-.b":            "",
		"a b":             "",
		"bücher":          "",
		"*.example.com":   "",
		"a\x00b":          "",
	} {
		got, err := wireName("domain", text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
