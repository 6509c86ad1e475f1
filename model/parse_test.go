package model

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
)

// parsed is a text, and what a Parse function makes of it; no means that it is
// refused.
type parsed struct{ in, want string }

const no = "\x00refused"

// check runs the cases; an error must name field.
func check(t *testing.T, field string, parse func(string) (string, error), cases []parsed) {
	t.Helper()
	for _, c := range cases {
		got, err := parse(c.in)
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Kind != KindInvalid || e.Field != field || len(e.Fields) != 1 {
				t.Errorf("%q: error %#v, want one of the field %s", c.in, err, field)
			}
			got = no
		}
		if got != c.want {
			t.Errorf("%q is %q, want %q", c.in, got, c.want)
		}
	}
}

// text adapts a Parse function whose result prints.
func text[T any](parse func(string) (T, error)) func(string) (string, error) {
	return func(s string) (string, error) {
		v, err := parse(s)
		return fmt.Sprint(v), err
	}
}

func TestParseUsername(t *testing.T) {
	check(t, "username", func(s string) (string, error) { return ParseUsername("username", s) }, []parsed{
		{"anna", "anna"}, {" anna ", "anna"}, {"Anna.B_c@d-e", "Anna.B_c@d-e"}, {"0", "0"},
		{strings.Repeat("a", 64), strings.Repeat("a", 64)}, {strings.Repeat("a", 65), no},
		{"", no}, {" ", no}, {".a", no}, {"a b", no}, {"ä", no}, {"a\nb", no}, {"a\x00", no},
	})
}

func TestCheckPassword(t *testing.T) {
	for password, ok := range map[string]bool{
		"12345678": true, "ääääääää": true, strings.Repeat("a", 1024): true, "correct horse": true,
		"": false, "1234567": false, "äääää": false, strings.Repeat("a", 1025): false, "changeme": false, "ChangeMe": false,
	} {
		err := CheckPassword("password", password)
		if (err == nil) != ok {
			t.Errorf("%q: %v", password, err)
		}
		if err != nil && len(password) > 8 && strings.Contains(err.Error(), password) {
			t.Error("the error repeats the password")
		}
	}
}

func TestCanSignIn(t *testing.T) {
	for _, c := range []struct {
		u    User
		want bool
	}{
		{User{Enabled: true, Role: RoleAdmin, PasswordHash: "$"}, true},
		{User{Enabled: false, Role: RoleAdmin, PasswordHash: "$"}, false},
		{User{Enabled: true, Role: RoleUser, PasswordHash: "$"}, false},
		{User{Enabled: true, Role: RoleAdmin, PasswordHash: "!"}, false},
	} {
		if got := c.u.CanSignIn(); got != c.want {
			t.Errorf("%+v: %t", c.u, got)
		}
	}
}

func TestParsePeerName(t *testing.T) {
	check(t, "name", ParsePeerName, []parsed{
		{"Laptop", "Laptop"}, {"  my laptop ", "my laptop"}, {"a._- b", "a._- b"}, {"0", "0"},
		{strings.Repeat("a", 63), strings.Repeat("a", 63)}, {strings.Repeat("a", 64), no},
		{"", no}, {"-a", no}, {".a", no}, {"a/b", no}, {"Büro", no}, {"a\nb", no}, {"a\tb", no}, {"a#b", no}, {"a\u00a0b", no},
	})
}

func TestParseGroupName(t *testing.T) {
	check(t, "name", ParseGroupName, []parsed{
		{"Home", "Home"}, {" im Büro \n", "im Büro"}, {"<a> & \"b\"", "<a> & \"b\""}, {"0", "0"},
		{strings.Repeat("ü", 64), strings.Repeat("ü", 64)}, {strings.Repeat("a", 65), no},
		{"", no}, {" \t", no}, {"a\nb", no}, {"a\x00b", no}, {"a\x7f", no}, {"a\u0085b", no},
	})
}

func TestParseGroupColor(t *testing.T) {
	check(t, "color", ParseGroupColor, []parsed{
		{"", "#6b7280"}, {"#abc", "#abc"}, {"#ABCDEF", "#ABCDEF"}, {"#01234567", "#01234567"},
		{"#ab", no}, {"#012345678", no}, {"abc", no}, {"#ggg", no}, {" #abc", no}, {"#abc\n", no}, {"red", no}, {"#abc;x", no},
	})
}

func TestParseDescription(t *testing.T) {
	check(t, "description", ParseDescription, []parsed{
		{"", ""}, {" kept as it is ", " kept as it is "}, {strings.Repeat("ü", 255), strings.Repeat("ü", 255)}, {strings.Repeat("a", 256), no},
	})
}

func TestParseHostname(t *testing.T) {
	check(t, "hostname", ParseHostname, []parsed{
		{"nas", "nas"}, {" NAS ", "nas"}, {"a-b", "a-b"}, {"0", "0"}, {strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{strings.Repeat("a", 64), no}, {"", no}, {"-a", no}, {"a-", no}, {"a.b", no}, {"a_b", no}, {"a b", no}, {"ü", no}, {"a\nb", no},
		{"localhost", no}, {"Gateway", no}, {"gc-server", no}, {"ns1", no}, {"ns3", "ns3"}, {"admin", no}, {"admin2", "admin2"},
		{"\u212a", "k"}, // the sign of the Kelvin is a capital K
	})
}

func TestHostnameVariant(t *testing.T) {
	for _, c := range []struct {
		base string
		n    int
		want string
	}{
		{"nas", 2, "nas-2"}, {"nas", 99, "nas-99"}, {strings.Repeat("a", 63), 2, strings.Repeat("a", 61) + "-2"},
		{strings.Repeat("a", 60), 99, strings.Repeat("a", 60) + "-99"}, {strings.Repeat("a", 58) + "---bb", 10, strings.Repeat("a", 58) + "-10"},
	} {
		got := HostnameVariant(c.base, c.n)
		if got != c.want {
			t.Errorf("%s, %d: %s, want %s", c.base, c.n, got, c.want)
		}
		if _, err := ParseHostname(got); err != nil {
			t.Error(err)
		}
	}
}

func TestParseDNSList(t *testing.T) {
	check(t, "dns", text(func(s string) ([]netip.Addr, error) { return ParseDNSList("dns", s) }), []parsed{
		{"", "[]"}, {"  ", "[]"}, {"1.1.1.1", "[1.1.1.1]"}, {"1.1.1.1, 8.8.8.8", "[1.1.1.1 8.8.8.8]"},
		{"1.1.1.1,", no}, {",", no}, {"::1", no}, {"::ffff:1.1.1.1", no}, {"1.1.1", no}, {"one.one", no}, {"1.1.1.1 8.8.8.8", no},
		{"1.1.1.1\n", no}, {"1.1.1.1,\r\n8.8.8.8", no}, {"1.1.1.1/32", no}, {"01.1.1.1", no},
		{"1.1.1.1" + strings.Repeat(",1.1.1.1", 7), "[1.1.1.1" + strings.Repeat(" 1.1.1.1", 7) + "]"}, {"1.1.1.1" + strings.Repeat(",1.1.1.1", 8), no},
	})
}

func TestParseExpiry(t *testing.T) {
	check(t, "expires_at", func(s string) (string, error) {
		at, err := ParseExpiry("expires_at", s)
		return at.Format(time.RFC3339Nano), err
	}, []parsed{
		{"2026-12-31", "2026-12-31T23:59:59Z"}, {"2024-02-29", "2024-02-29T23:59:59Z"}, {" 2026-12-31 ", "2026-12-31T23:59:59Z"},
		{"2026-12-31T23:59:59.000Z", "2026-12-31T23:59:59Z"}, {"2026-12-31T12:00:00+02:00", "2026-12-31T10:00:00Z"},
		{"2026-12-31T12:00:00.5Z", "2026-12-31T12:00:00.5Z"}, {"2026-12-31T12:00", "2026-12-31T12:00:00Z"},
		{"2026-12-31 12:00:00", "2026-12-31T12:00:00Z"}, {"2026-12-31 12:00", "2026-12-31T12:00:00Z"}, {"1999-01-01", "1999-01-01T23:59:59Z"},
		{"9999-12-31", "9999-12-31T23:59:59Z"}, {"9999-12-31T23:00:00-02:00", no}, {"0000-01-01", no}, {"0001-01-01T00:00:00+01:00", no},
		{"", no}, {"soon", no}, {"2025-02-29", no}, {"31.12.2026", no}, {"12/31/2026", no}, {"1767225600", no},
	})
}

func TestParseTags(t *testing.T) {
	check(t, "tags", ParseTags, []parsed{
		{"", ""}, {"NAS, home", "NAS, home"}, {",,", ",,"}, {strings.Repeat("ü", 64), strings.Repeat("ü", 64)}, {strings.Repeat("a", 65), no},
		{"<b>", no}, {`"`, no}, {"a\nb", no}, {"a\tb", no}, {"a\rb", no}, {"a\x00b", no}, {"a\x1b[2J", no}, {"a\u0085b", no}, {strings.Repeat("a,", 1025), no},
	})
}

func TestParsePortRange(t *testing.T) {
	check(t, "port", text(func(s string) (PortRange, error) { return ParsePortRange("port", s) }), []parsed{
		{"1", "1"}, {"65535", "65535"}, {"5000-5010", "5000-5010"}, {"7-7", "7"}, {"0080", "80"},
		{"0", no}, {"0-5", no}, {"65536", no}, {"5010-5000", no}, {"", no}, {"-", no}, {"5-", no}, {"-5", no}, {"1-2-3", no}, {" 1", no}, {"1 - 2", no}, {"+1", no}, {"1e3", no}, {"0x10", no},
	})
}

func TestPortRange(t *testing.T) {
	r := PortRange{10, 20}
	if r.Len() != 11 || !r.Contains(10) || !r.Contains(20) || r.Contains(9) || r.Contains(21) || (PortRange{1, 65535}).Len() != 65535 {
		t.Error("bounds")
	}
	for o, want := range map[PortRange]bool{{20, 30}: true, {21, 30}: false, {1, 10}: true, {1, 9}: false, {12, 13}: true, {1, 99}: true} {
		if r.Overlaps(o) != want || o.Overlaps(r) != want {
			t.Errorf("%v and %v: not %t", r, o, want)
		}
	}
}

func TestParseDomain(t *testing.T) {
	long := strings.Repeat("a", 63)
	fits := strings.Join([]string{long, long, long, strings.Repeat("a", 57), "com"}, ".")
	check(t, "domain", ParseDomain, []parsed{
		{"app.example.com", "app.example.com"}, {" App.Example.COM ", "app.example.com"}, {"a-b.example", "a-b.example"}, {"0.1a.de", "0.1a.de"},
		{fits, fits}, {"a" + fits, no}, {long + "a.com", no},
		{"", no}, {"com", no}, {"a.b", no}, {"a.b1", no}, {"a..com", no}, {".a.com", no}, {"a.com.", no}, {"-a.com", no}, {"a-.com", no},
		{"*.example.com", no}, {"a_b.com", no}, {"192.0.2.1", no}, {"bücher.de", no}, {"a.xn--p1ai", no}, {"xn--bcher-kva.de", "xn--bcher-kva.de"},
		{"a.com:80", no}, {"a.com/x", no}, {"a\n.com", no}, {"a.com\nb.com", no},
	})
}

func TestParseTargetIP(t *testing.T) {
	check(t, "target_ip", text(ParseTargetIP), []parsed{
		{"198.51.100.7", "198.51.100.7"}, {" 8.8.8.8 ", "8.8.8.8"}, {"100.63.255.255", "100.63.255.255"}, {"100.128.0.0", "100.128.0.0"},
		{"172.15.255.255", "172.15.255.255"}, {"172.32.0.0", "172.32.0.0"}, {"192.169.0.1", "192.169.0.1"}, {"11.0.0.1", "11.0.0.1"},
		{"0.0.0.0", no}, {"10.0.0.1", no}, {"100.64.0.0", no}, {"100.127.255.255", no}, {"127.0.0.1", no}, {"169.254.169.254", no},
		{"172.16.0.0", no}, {"172.31.255.255", no}, {"192.168.1.1", no}, {"224.0.0.1", no}, {"255.255.255.255", no},
		{"", no}, {"::1", no}, {"2001:db8::1", no}, {"::ffff:8.8.8.8", no}, {"8.8.8", no}, {"8.8.8.8.8", no}, {"08.8.8.8", no}, {"0x8.8.8.8", no},
		{"134744072", no}, {"127.1", no}, {"8.8.8.8/32", no}, {"8.8.8.8:80", no}, {"example.com", no},
	})
}

func TestDomainIsPublic(t *testing.T) {
	for domain, want := range map[string]bool{
		"a.example.com": true, "a.dev": true, "a.test": false, "nas.lan": false, "a.home": false, "a.internal": false, "a.local": false,
		"localhost": false, "a.localhost": false, "a.corp": false, "a.invalid": false, "192.0.2.1": false, "": false, "com": false,
	} {
		if got := DomainIsPublic(domain); got != want {
			t.Errorf("%q: %t", domain, got)
		}
	}
}

func TestPeer(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later := now.Add(time.Second)
	for _, c := range []struct {
		p    Peer
		want bool
	}{
		{Peer{Enabled: true}, true}, {Peer{}, false}, {Peer{Enabled: true, ExpiresAt: &later}, true},
		{Peer{Enabled: true, ExpiresAt: &now}, false}, {Peer{ExpiresAt: &later}, false},
	} {
		if got := c.p.Live(now); got != c.want {
			t.Errorf("%+v: %t", c.p, got)
		}
	}
	if (&Peer{}).Address().IsValid() {
		t.Error("a peer without addresses has one")
	}
	for age, want := range map[time.Duration]bool{0: true, 179 * time.Second: true, 180 * time.Second: false} {
		s := PeerStatus{LastHandshake: now.Add(-age)}
		if s.Online(now) != want {
			t.Errorf("handshake %s ago: not %t", age, want)
		}
	}
	if (&PeerStatus{}).Online(time.Time{}.Add(time.Second)) {
		t.Error("online without a handshake")
	}
}

// FuzzParse holds every Parse function to what its callers rely on: what it lets
// through has the form that it promises, and is let through again unchanged.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"nas", "a.example.com", "1.1.1.1, 8.8.8.8", "5000-5010", "2026-12-31", "2026-12-31T12:00:00+02:00", "a,b", "[::1]:80", "x\n", "\u212a"} {
		f.Add(s)
	}
	parsers := map[string]func(string) (string, error){
		"peer name": ParsePeerName, "host name": ParseHostname, "domain": ParseDomain, "tags": ParseTags, "description": ParseDescription,
		"group": ParseGroupName, "color": ParseGroupColor,
		"user name": func(s string) (string, error) { return ParseUsername("x", s) },
		"target":    text(ParseTargetIP),
		"ports":     text(func(s string) (PortRange, error) { return ParsePortRange("x", s) }),
		"DNS servers": func(s string) (string, error) {
			list, err := ParseDNSList("x", s)
			var out []string
			for _, a := range list {
				out = append(out, a.String())
			}
			return strings.Join(out, ","), err
		},
		"expiry": func(s string) (string, error) {
			at, err := ParseExpiry("x", s)
			return at.Format(time.RFC3339Nano), err
		},
	}
	oneLine := regexp.MustCompile(`^[ -~]*$`)
	f.Fuzz(func(t *testing.T, s string) {
		for name, parse := range parsers {
			got, err := parse(s)
			if err != nil {
				continue
			}
			if name != "tags" && name != "description" && name != "group" && !oneLine.MatchString(got) {
				t.Errorf("%s: %q became %q", name, s, got)
			}
			if name == "group" && strings.ContainsFunc(got, unicode.IsControl) {
				t.Errorf("group: %q", got)
			}
			if name == "tags" && (strings.ContainsAny(got, `<>"`) || strings.ContainsFunc(got, unicode.IsControl)) {
				t.Errorf("tags: %q", got)
			}
			if again, err := parse(got); err != nil || again != got {
				t.Errorf("%s: %q became %q, and that %q, %v", name, s, got, again, err)
			}
		}
		DomainIsPublic(s)
		if v := HostnameVariant(s, 2); len(v) > 65 && len(s) <= 63 {
			t.Errorf("variant %q", v)
		}
	})
}
