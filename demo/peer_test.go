package demo

import (
	"context"
	"strings"
	"testing"
)

const good = `[Interface]
PrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
Address = 10.8.0.5/32, fd00::5/128
DNS = 10.8.0.1,10.8.0.2
MTU = 1400

[Peer] # the server
PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
PresharedKey = AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
Endpoint = 127.0.0.1:51820
AllowedIPs = 0.0.0.0/0, 10.8.0.0/24
PersistentKeepalive = 25
`

func TestParse(t *testing.T) {
	c, err := parse(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.addrs) != 2 || c.addrs[0].String() != "10.8.0.5" || c.addrs[1].String() != "fd00::5" || len(c.dns) != 2 || c.mtu != 1400 {
		t.Errorf("%v %v %d", c.addrs, c.dns, c.mtu)
	}
	want := "private_key=" + strings.Repeat("01", 32) + "\npublic_key=" + strings.Repeat("02", 32) +
		"\npreshared_key=" + strings.Repeat("03", 32) + "\nendpoint=127.0.0.1:51820\nallowed_ip=0.0.0.0/0\nallowed_ip=10.8.0.0/24\n" +
		"persistent_keepalive_interval=25\n"
	if got := c.uapi.String(); got != want {
		t.Errorf("configuration:\n%s\nwant:\n%s", got, want)
	}
}

func TestParseNamesTheBadLine(t *testing.T) {
	for _, c := range []struct{ name, old, bad, want string }{
		{"no address", "Address = 10.8.0.5/32, fd00::5/128\n", "", "no Address"},
		{"bare address", "10.8.0.5/32", "10.8.0.5", "Address"},
		{"short key", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "AgIC", "PublicKey"},
		{"resolver by name", "10.8.0.1,", "dns.example.com,", "DNS"},
		{"size that is no number", "1400", "big", "MTU"},
		{"endpoint without a port", "127.0.0.1:51820", "127.0.0.1", "Endpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.bad, 1)
			if text == good {
				t.Fatal("nothing was replaced")
			}
			if _, err := parse(t.Context(), text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error that names %s", err, c.want)
			}
		})
	}
}

// FuzzParse must not panic, whatever a file holds. Endpoints are left out: a
// name there would be looked up.
func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("[Interface]\nAddress=1.2.3.4/33\nDNS=\n")
	f.Fuzz(func(t *testing.T, text string) {
		if !strings.Contains(text, "Endpoint") {
			_, _ = parse(context.Background(), text)
		}
	})
}
