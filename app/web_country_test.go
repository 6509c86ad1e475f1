package app_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"gatecontrol/lab"
)

// Strangers, and the networks by which the database knows where they are.
var (
	briton   = netip.MustParseAddr("81.2.69.160")
	swede    = netip.MustParseAddr("89.160.20.112")
	nomad    = netip.MustParseAddr("175.16.199.7") // in no country that the database knows
	networks = map[string]string{"81.2.69.0/24": "GB", "89.160.20.112/28": "SE"}
)

// countryFile writes a database of countries in MaxMind's format.
func countryFile(t testing.TB, path string, networks map[string]string) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country"})
	if err != nil {
		t.Fatal(err)
	}
	for text, code := range networks {
		_, network, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code)}}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := tree.WriteTo(f); err != nil {
		t.Fatal(err)
	}
}

// TestCountriesOfVisitors has strangers from several countries visit a route with
// country rules, on the way to a peer and over every HTTP version. They have a network
// of their own, for no address of this host has a country.
func TestCountriesOfVisitors(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick")
	server, peer, abroad := lab.NewNamespace(t, "s"), lab.NewNamespace(t, "a"), lab.NewNamespace(t, "w")
	lab.Link(t, server, "10.99.1.1/30", "to-a", peer, "10.99.1.2/30", "eth0")
	lab.Link(t, server, "10.99.2.1/30", "to-w", abroad, "10.99.2.2/30", "eth0")
	for _, stranger := range []netip.Addr{briton, swede, nomad} {
		abroad.Run(t, "ip", "addr", "add", stranger.String()+"/32", "dev", "lo")
		server.Run(t, "ip", "route", "add", stranger.String(), "via", "10.99.2.2")
	}
	database := filepath.Join(t.TempDir(), "country.mmdb")
	countryFile(t, database, networks)
	api, dir := startProcess(t, server, "GC_WG_HOST=10.99.1.1", "GC_GEOIP_DB="+database)
	id, alpha := joinProcess(t, api, "alpha", "10.99.1.1:51820", peer, lab.BuildWireGuardGo(t))
	serveHTTP(t, alpha.Namespace, alpha.Addr.String()+":8000", "page of alpha")
	g := &gallery{s: &lab.Server{Dir: dir, API: api}, alpha: exhibit{id: id}}

	serveHTTP(t, abroad, briton.String()+":8000", "page of a Briton")

	rule := func(typ, value string) fields { return fields{"type": typ, "value": value} }
	for _, v := range g.visitors() {
		t.Run(v.version+" to an address", func(t *testing.T) { directTarget(t, g, v, v.from(t, abroad, swede)) })
		t.Run(v.version, func(t *testing.T) {
			id, domain := g.show(t, fields{"ip_filter_enabled": true, "ip_filter_rules": []fields{}})
			for _, c := range []struct {
				name                 string
				mode                 string
				rules                []fields
				briton, swede, nomad int
			}{
				{"let in", "whitelist", []fields{rule("country", "gb")}, 200, 403, 403},
				{"two let in", "whitelist", []fields{rule("country", "SE"), rule("country", "GB")}, 200, 200, 403},
				{"a country and an address let in", "whitelist", []fields{rule("country", "GB"), rule("ip", nomad.String())}, 200, 403, 200},
				{"kept out", "blacklist", []fields{rule("country", "GB")}, 403, 200, 403},
				{"kept out, with a network", "blacklist", []fields{rule("country", "GB"), rule("cidr", "89.0.0.0/8")}, 403, 403, 403},
				{"a country that nobody is from", "blacklist", []fields{rule("country", "FR")}, 200, 200, 403},
			} {
				g.change(t, id, fields{"ip_filter_mode": c.mode, "ip_filter_rules": c.rules})
				for addr, want := range map[netip.Addr]int{briton: c.briton, swede: c.swede, nomad: c.nomad} {
					body := ""
					if want == 200 {
						body = "page of alpha"
					}
					visit(t, v.from(t, abroad, addr), domain, "/").wants(t, c.name+", "+addr.String(), want, body)
				}
			}
		})
	}
}

// from is a client at an address of ns, which reaches the server of a scene.
func (v visitor) from(t *testing.T, ns *lab.Namespace, addr netip.Addr) *http.Client {
	t.Helper()
	const https = "10.99.2.1:8443"
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(https))
	return v.client(t, place{
		dial: func(ctx context.Context) (c net.Conn, err error) {
			d := net.Dialer{FallbackDelay: -1, LocalAddr: &net.TCPAddr{IP: addr.AsSlice()}}
			if nerr := ns.Do(func() { c, err = d.DialContext(ctx, "tcp", https) }); nerr != nil {
				return nil, nerr
			}
			return c, err
		},
		packets: func() (net.PacketConn, error) { return ns.ListenPacket(netip.AddrPortFrom(addr, 0).String()) },
		quic:    to,
	}, nil)
}

// directTarget leads to an address that is nobody's in the tunnel, and back (contract
// 2.1). A peer goes before it.
func directTarget(t *testing.T, g *gallery, v visitor, c *http.Client) {
	id, domain := g.show(t, fields{"peer_id": nil, "target_ip": briton.String()})
	for _, step := range []struct {
		name    string
		options fields
		body    string
	}{
		{"an address", fields{}, "page of a Briton"},
		{"a peer", fields{"peer_id": g.alpha.id}, "page of alpha"},
		{"a peer and an address", fields{"peer_id": g.alpha.id, "target_ip": briton.String()}, "page of alpha"},
		{"an address again", fields{"peer_id": nil, "target_ip": briton.String()}, "page of a Briton"},
		{"another text about it", fields{"description": "abroad"}, "page of a Briton"},
	} {
		g.change(t, id, step.options)
		visit(t, c, domain, "/").wants(t, step.name, 200, step.body)
	}
	g.change(t, id, fields{"target_port": 8999})
	visit(t, c, domain, "/").wants(t, "an address where nobody listens", 502, "")
}
