package model

import (
	"net/netip"
	"strconv"
)

// MaxHostname is the longest DNS name in text form without the root dot (RFC
// 1035, section 2.3.4); an IP literal is shorter.
const MaxHostname = 253

// NormalizeHost returns the one form in which host names are compared: lower
// case, without port and without one trailing dot; IP literals without brackets
// and in canonical form (RFC 5952). It reports false for what is neither a DNS
// name nor an IP literal with an optional port of 1–65535 (RFC 9110, section
// 7.2): userinfo, lists, spaces, percent signs, zones, non-ASCII letters.
//
// Routing, SNI, certificates, route storage, DNS and the admin host check all
// compare names in this form.
func NormalizeHost(host string) (string, bool) {
	var buf [MaxHostname]byte
	b, ok := AppendHost(buf[:0], []byte(host))
	if string(b) == host {
		return host, ok // the usual case
	}
	return string(b), ok
}

// AppendHost is NormalizeHost without garbage: it appends to dst, which
// stays as it was if the host is refused.
func AppendHost(dst, host []byte) ([]byte, bool) {
	if len(host) == 0 {
		return dst, false
	}
	if host[0] == '[' {
		return appendIPv6(dst, host)
	}
	name := host
	for i := len(host) - 1; i >= 0 && i >= len(host)-6; i-- {
		if host[i] == ':' {
			if !validPort(host[i+1:]) {
				return dst, false
			}
			name = host[:i]
			break
		}
	}
	if n := len(name); n > 1 && name[n-1] == '.' {
		name = name[:n-1]
	}
	if len(name) == 0 || len(name) > MaxHostname {
		return dst, false
	}
	start, label := len(dst), 0
	for _, c := range name {
		switch {
		case c == '.':
			if label == 0 {
				return dst[:start], false
			}
			label = 0
			dst = append(dst, c)
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return dst[:start], false
		}
		if label++; label > 63 {
			return dst[:start], false
		}
		dst = append(dst, c)
	}
	if label == 0 {
		return dst[:start], false
	}
	return dst, true
}

func appendIPv6(dst, host []byte) ([]byte, bool) {
	end := 1
	for end < len(host) && host[end] != ']' {
		end++
	}
	if end == len(host) {
		return dst, false
	}
	if rest := host[end+1:]; len(rest) > 0 && (rest[0] != ':' || !validPort(rest[1:])) {
		return dst, false
	}
	addr, err := netip.ParseAddr(string(host[1:end]))
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return dst, false
	}
	return addr.AppendTo(dst), true
}

// validPort reports whether b is a port number of 1–65535 in at most five digits.
func validPort(b []byte) bool {
	if len(b) == 0 || len(b) > 5 {
		return false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return 1 <= n && n <= 65535
}

// HostPort returns the port that a valid host names, 0 if it names none.
func HostPort(host []byte) uint16 {
	for i := len(host) - 1; i >= 0 && host[i] != ']'; i-- {
		if host[i] == ':' {
			n, _ := strconv.ParseUint(string(host[i+1:]), 10, 16)
			return uint16(n)
		}
	}
	return 0
}
