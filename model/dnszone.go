package model

import (
	"encoding/base64"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
)

// DNSSetting is one thing that a provider of DNS wants to know.
type DNSSetting struct {
	Name    string
	Secret  bool   // sealed at rest, and never given out
	Default string // where it is left out
	check   func(string) bool
	is      string // what check wants, for people
}

// The providers of DNS whose records the server can change.
const (
	DNSRFC2136    = "rfc2136" // dynamic updates with TSIG: BIND, Knot, PowerDNS
	DNSCloudflare = "cloudflare"
	DNSDesec      = "desec"
	DNSHetzner    = "hetzner" // through the API of its cloud
	DNSACMEDNS    = "acme-dns"
)

// TSIGAlgorithms are those that keys of dynamic updates can have.
var TSIGAlgorithms = []string{"hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224"}

var dnsProviders = map[string][]DNSSetting{
	DNSRFC2136: {
		{Name: "server", check: isHostPort, is: "a host name or address, with a port if that is not 53"},
		{Name: "key_name", check: isTSIGName, is: "the name of a TSIG key"},
		{Name: "key_algorithm", Default: "hmac-sha256", check: func(s string) bool { return slices.Contains(TSIGAlgorithms, s) }, is: "one of " + strings.Join(TSIGAlgorithms, ", ")},
		{Name: "key_secret", Secret: true, check: isBase64, is: "the key in base64"},
	},
	DNSCloudflare: {{Name: "api_token", Secret: true, check: isToken, is: "a token without spaces"}},
	DNSDesec:      {{Name: "token", Secret: true, check: isToken, is: "a token without spaces"}},
	DNSHetzner:    {{Name: "api_token", Secret: true, check: isToken, is: "a token without spaces"}},
	DNSACMEDNS: {
		{Name: "server", check: isHTTPS, is: "the https:// address of an acme-dns server"},
		{Name: "subdomain", check: isToken, is: "the subdomain that the registration gave"},
		{Name: "username", check: isToken, is: "the user name that the registration gave"},
		{Name: "password", Secret: true, check: isToken, is: "the password that the registration gave"},
	},
}

// DNSProviders lists the providers.
func DNSProviders() []string { return slices.Sorted(maps.Keys(dnsProviders)) }

// DNSSettings lists what a provider wants to know; nil for one that is not known.
func DNSSettings(provider string) []DNSSetting { return dnsProviders[provider] }

// CheckDNSSettings checks and completes what is known for a provider, by the name
// of a setting. Its error names every setting at fault.
func CheckDNSSettings(provider string, values map[string]string) error {
	list := dnsProviders[provider]
	if list == nil {
		return Invalid("provider", "must be one of %s", strings.Join(DNSProviders(), ", "))
	}
	var bad Invalids
	for _, s := range list {
		v := values[s.Name]
		if v == "" && s.Default != "" {
			v = s.Default
			values[s.Name] = v
		}
		if len(v) > maxDNSSetting || !s.check(v) {
			bad.Add(s.Name, "must be %s", s.is)
		}
	}
	for name := range values {
		if !slices.ContainsFunc(list, func(s DNSSetting) bool { return s.Name == name }) {
			delete(values, name)
		}
	}
	return bad.Err()
}

// maxDNSSetting bounds one setting: tokens have about 100 characters.
const maxDNSSetting = 512

func isHostPort(s string) bool {
	if host, port, err := net.SplitHostPort(s); err == nil {
		_, ok := NormalizeHost(host)
		return (ok || net.ParseIP(host) != nil) && validPort([]byte(port))
	}
	if net.ParseIP(s) != nil {
		return true
	}
	_, ok := NormalizeHost(s)
	return ok
}

func isTSIGName(s string) bool {
	_, ok := NormalizeHost(s)
	return ok && HostPort([]byte(s)) == 0
}

func isBase64(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) > 0
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}
