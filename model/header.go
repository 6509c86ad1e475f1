package model

import (
	"fmt"
	"strings"
)

// Bounds of the fields that a route sets in one direction: together with what is
// there already they have to pass the limits of ordinary servers.
const (
	MaxHeaderFields = 64
	maxHeaderBytes  = 32 << 10 // names and values together
	maxHeaderName   = 256
	maxHeaderValue  = 4096
)

// Fields that a route does not set. Framing and hop-by-hop fields are between two
// neighbours (RFC 9110, section 7.6.1), the others tell backends who asks.
var (
	neverSet = words("connection keep-alive te trailer transfer-encoding upgrade content-length http2-settings " +
		"forwarded via x-real-ip x-route-domain alt-svc")
	neverAsked    = words("expect")                                  // of a backend
	neverAnswered = words("date host")                               // to a client
	neverPrefixes = []string{"proxy-", "x-forwarded-", "x-gateway-"} // of families
)

func words(s string) map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}

// ParseHeaderField reads a field that a route sets in requests, or else in
// answers: a name of letters, digits and hyphens and a value without control
// characters, in which braces mean nothing. The error is for people.
func ParseHeaderField(name, value string, request bool) (HeaderField, error) {
	name, value = strings.TrimSpace(name), strings.Trim(value, " \t")
	if name == "" || len(name) > maxHeaderName || strings.ContainsFunc(name, notInName) {
		return HeaderField{}, fmt.Errorf("the name must be 1 to %d letters, digits and hyphens", maxHeaderName)
	}
	if value == "" || len(value) > maxHeaderValue || strings.ContainsFunc(value, isControl) {
		return HeaderField{}, fmt.Errorf("the value must be 1 to %d characters without line breaks", maxHeaderValue)
	}
	lower := strings.ToLower(name)
	never := neverSet[lower] || request && neverAsked[lower] || !request && neverAnswered[lower]
	for _, p := range neverPrefixes {
		never = never || strings.HasPrefix(lower, p)
	}
	if never {
		return HeaderField{}, fmt.Errorf("%s is set by the server itself", name)
	}
	if request && lower == "host" {
		if _, ok := NormalizeHost(value); !ok {
			return HeaderField{}, fmt.Errorf("a Host must be a host name with an optional port")
		}
	}
	return HeaderField{name, value}, nil
}

// CheckHeaderFields refuses a list as a whole. Each of its fields replaces what is
// there, so a name counts once. The error is for people.
func CheckHeaderFields(list []HeaderField) error {
	if len(list) > MaxHeaderFields {
		return fmt.Errorf("must have at most %d fields", MaxHeaderFields)
	}
	seen, size := make(map[string]bool, len(list)), 0
	for _, f := range list {
		size += len(f.Name) + len(f.Value)
		name := strings.ToLower(f.Name)
		if seen[name] {
			return fmt.Errorf("%s is there twice", f.Name)
		}
		seen[name] = true
	}
	if size > maxHeaderBytes {
		return fmt.Errorf("must be at most %d bytes together", maxHeaderBytes)
	}
	return nil
}

func notInName(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-')
}

// isControl reports whether c is a control character that no field value has; a
// tab is not one of them.
func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
