package model

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseNetworks(t *testing.T) {
	many := make([]string, MaxNetworks+1)
	for i := range many {
		many[i] = fmt.Sprintf("10.%d.0.0/16", i)
	}
	for _, test := range []struct {
		name, in, want string
		bad            bool
	}{
		{"none", " ", "", false},
		{"one", "192.168.1.0/24", "192.168.1.0/24", false},
		{"host bits", "192.168.1.7/24", "192.168.1.0/24", false},
		{"several, out of order and twice", "fd00::/8 , 10.0.0.0/8,192.168.1.0/24,10.1.2.3/8", "10.0.0.0/8,192.168.1.0/24,fd00::/8", false},
		{"as many as possible", strings.Join(many[1:], ","), strings.Join(many[1:], ","), false},
		{"one too many", strings.Join(many, ","), "", true},
		{"address", "192.168.1.7", "", true},
		{"mapped", "::ffff:10.0.0.0/104", "", true},
		{"zone", "fe80::1%eth0/64", "", true},
		{"empty part", "10.0.0.0/8,", "", true},
		{"endless", strings.Repeat(" ", 1<<20) + "x", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseNetworks("private_networks", test.in)
			if (err != nil) != test.bad {
				t.Fatal(err)
			}
			if text := JoinNetworks(got); !test.bad && text != test.want && !(len(got) == MaxNetworks) {
				t.Errorf("%q instead of %q", text, test.want)
			}
		})
	}
}

func TestExitWith(t *testing.T) {
	open := Exit{Enabled: true, PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, RedirectDNS: true}
	for _, test := range []struct {
		key, value, want string
	}{
		{ExitEnabledKey, "false", "{false [10.0.0.0/8] true}"},
		{ExitEnabledKey, "true", "{true [10.0.0.0/8] true}"},
		{ExitEnabledKey, "perhaps", "{false [10.0.0.0/8] true}"},
		{ExitPrivateKey, "192.168.1.0/24,fd00::/8", "{true [192.168.1.0/24 fd00::/8] true}"},
		{ExitPrivateKey, "", "{true [] true}"},
		{ExitPrivateKey, "everything", "{true [] true}"},
		{ExitRedirectKey, "false", "{true [10.0.0.0/8] false}"},
		{"exit.other", "x", "{true [10.0.0.0/8] true}"},
	} {
		if got := fmt.Sprint(open.With(test.key, test.value)); got != test.want {
			t.Errorf("%s=%s: %s instead of %s", test.key, test.value, got, test.want)
		}
	}
}
