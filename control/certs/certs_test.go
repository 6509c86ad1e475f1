package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

// kept is a Service, and what it has handed over.
type kept struct {
	*Service
	db      *store.DB
	uploads []Upload
	zones   []Zone
	applied int
}

func newService(t *testing.T, look Look) *kept {
	t.Helper()
	k := &kept{db: storetest.Open(t)}
	k.Service = New(Options{
		DB: k.db, Log: slog.New(slog.DiscardHandler), Now: time.Now, AdminHosts: []string{"gate.example.com"}, Look: look,
		Apply: func(u []Upload, z []Zone) { k.uploads, k.zones, k.applied = u, z, k.applied+1 },
	})
	if err := k.db.Update(context.Background(), func(tx *store.Tx) error {
		return store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "app.example.com"})
	}); err != nil {
		t.Fatal(err)
	}
	return k
}

func made(t testing.TB, names ...string) Input {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Input{
		model.Value(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		model.Value(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))),
	}
}

func isKind(err error, kind model.Kind, field string) bool {
	e, ok := errors.AsType[*model.Error](err)
	return ok && e.Kind == kind && e.Field == field
}

// TestUploadAndDelete: a change is handed over before it is acknowledged, the key
// is sealed, and what is refused changes nothing.
func TestUploadAndDelete(t *testing.T) {
	ctx := context.Background()
	k := newService(t, Look{})
	in := made(t, "app.example.com", "www.example.org")
	first, err := k.Upload(ctx, in)
	if err != nil || first.Key != "" {
		t.Fatalf("%+v, %v", first, err)
	}
	if len(k.uploads) != 1 || k.uploads[0].Names[0] != "app.example.com" || k.uploads[0].Cert.Leaf == nil {
		t.Errorf("%+v", k.uploads)
	}
	if err := k.db.View(func(tx *store.Tx) error {
		c, err := store.Certificates.Get(tx, first.ID)
		if err == nil && (strings.Contains(string(c.Key), "PRIVATE") || c.Key == "") {
			t.Error("the key is not sealed")
		}
		if tx.Revision() != 1 { // of the route
			t.Errorf("revision %d", tx.Revision())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// The next one for the same names, in another order, takes its place.
	second, err := k.Upload(ctx, made(t, "www.example.org", "app.example.com"))
	if err != nil || len(k.uploads) != 1 || second.ID == first.ID {
		t.Errorf("%+v, %v, %d are kept", second, err, len(k.uploads))
	}
	if _, err := k.Upload(ctx, made(t, "*.example.com")); err != nil || len(k.uploads) != 2 {
		t.Errorf("a wildcard of the administration: %v", err)
	}
	before := k.applied
	for name, bad := range map[string]struct {
		in    Input
		field string
	}{
		"names of others": {made(t, "other.org"), "certificate"},
		"too deep":        {made(t, "*.sub.example.com"), "certificate"},
		"another key":     {Input{in.Certificate, made(t, "app.example.com").PrivateKey}, "private_key"},
	} {
		if _, err := k.Upload(ctx, bad.in); !isKind(err, model.KindInvalid, bad.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if k.applied != before {
		t.Error("what was refused was handed over")
	}
	if err := k.Delete(ctx, second.ID); err != nil || len(k.uploads) != 1 {
		t.Errorf("%v, %d are kept", err, len(k.uploads))
	}
	if err := k.Delete(ctx, second.ID); !isKind(err, model.KindNotFound, "") {
		t.Errorf("%v", err)
	}
}

// TestZones: secrets are sealed and stay where they are, and a change of provider
// needs its settings anew.
func TestZones(t *testing.T) {
	ctx := context.Background()
	k := newService(t, Look{})
	set := func(in ZoneInput) (model.DNSZone, error) { return k.SetZone(ctx, "example.com", in) }
	z, err := set(ZoneInput{Provider: model.Value("cloudflare"), APIToken: model.Value("a-secret"), Wildcard: model.Value(true)})
	if err != nil || z.Secrets != "" || !z.Wildcard {
		t.Fatalf("%+v, %v", z, err)
	}
	if _, err := set(ZoneInput{Wildcard: model.Value(false)}); err != nil || k.zones[0].Settings["api_token"] != "a-secret" || k.zones[0].Wildcard {
		t.Errorf("%+v, %v", k.zones, err)
	}
	if _, err := set(ZoneInput{Provider: model.Value("hetzner")}); !isKind(err, model.KindInvalid, "api_token") {
		t.Errorf("the secret of one provider goes to another: %v", err)
	}
	if _, err := set(ZoneInput{Provider: model.Value("desec"), Token: model.Value("b"), APIToken: model.Value("left over")}); err != nil || len(k.zones[0].Settings) != 1 {
		t.Errorf("%+v, %v", k.zones, err)
	}
	list, err := k.Zones(ctx)
	if err != nil || len(list) != 1 || list[0].Secrets != "" || len(list[0].Settings) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := k.SetZone(ctx, "no domain", ZoneInput{}); !isKind(err, model.KindInvalid, "zone") {
		t.Errorf("%v", err)
	}
	for provider, in := range map[string]ZoneInput{
		"rfc2136":  {Server: model.Value("ns.example.com:53x"), KeyName: model.Value("k"), KeySecret: model.Value("c2VjcmV0")},
		"acme-dns": {Server: model.Value("http://insecure.example"), Subdomain: model.Value("s"), Username: model.Value("u"), Password: model.Value("p")},
	} {
		in.Provider = model.Value(provider)
		if _, err := k.SetZone(ctx, "other.org", in); !isKind(err, model.KindInvalid, "server") {
			t.Errorf("%s: %v", provider, err)
		}
	}
	if err := k.DeleteZone(ctx, "Example.com"); err != nil || len(k.zones) != 0 {
		t.Errorf("%v", err)
	}
	if err := k.DeleteZone(ctx, "example.com"); !isKind(err, model.KindNotFound, "") {
		t.Errorf("%v", err)
	}
}

// TestLoadLeavesOut: one record that cannot be read does not keep the rest back.
func TestLoadLeavesOut(t *testing.T) {
	ctx := context.Background()
	k := newService(t, Look{})
	if _, err := k.Upload(ctx, made(t, "app.example.com")); err != nil {
		t.Fatal(err)
	}
	if err := k.db.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(
			store.Certificates.Insert(tx, &model.Certificate{Names: []string{"x"}, Chain: "no", Key: "no"}),
			store.DNSZones.Put(tx, &model.DNSZone{Zone: "bad.org", Provider: "desec", Secrets: "no"}),
		)
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.Load(); err != nil || len(k.uploads) != 1 || len(k.zones) != 0 {
		t.Errorf("%v: %d certificates, %d zones", err, len(k.uploads), len(k.zones))
	}
}

// TestPreflight: what is in the way is told apart from what cannot be known.
func TestPreflight(t *testing.T) {
	own, router, private := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("192.168.1.5")
	good := Look{
		Addrs:       func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{own}, nil },
		ForbiddenBy: func(context.Context, string, [][]string) (string, error) { return "", nil },
		Own:         func(context.Context) []netip.Addr { return []netip.Addr{own, private} },
		Reach:       func(context.Context, string, netip.Addr, bool) error { return nil },
		Budget:      func(name string) Budget { return Budget{Authorities: [][]string{nil}, Subject: name} },
	}
	addrs := func(list ...netip.Addr) func(*Look) {
		return func(l *Look) {
			l.Addrs = func(context.Context, string) ([]netip.Addr, error) { return list, nil }
		}
	}
	silent := func(l *Look) {
		l.Reach = func(context.Context, string, netip.Addr, bool) error { return errors.New("timeout") }
	}
	for _, tt := range []struct {
		name   string
		change []func(*Look)
		want   string
	}{
		{"all is well", nil, "authority yes, dns yes, port 80 yes, port 443 yes, caa yes, budget yes"},
		{"no such name", []func(*Look){func(l *Look) {
			l.Addrs = func(context.Context, string) ([]netip.Addr, error) { return nil, ErrNoName }
		}}, "authority yes, dns no, caa yes, budget yes"},
		{"no resolver", []func(*Look){func(l *Look) {
			l.Addrs = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("timeout") }
		}}, "authority yes, dns unknown, caa yes, budget yes"},
		{"a private address", []func(*Look){addrs(own, private)}, "authority yes, dns no, caa yes, budget yes"},
		{"behind a router", []func(*Look){addrs(router)}, "authority yes, dns yes, port 80 yes, port 443 yes, caa yes, budget yes"},
		{"elsewhere", []func(*Look){addrs(router), func(l *Look) {
			l.Reach = func(context.Context, string, netip.Addr, bool) error { return fmt.Errorf("%w: 404", ErrOther) }
		}}, "authority yes, dns no, port 80 no, port 443 no, caa yes, budget yes"},
		{"behind a router that does not turn back", []func(*Look){addrs(router), silent, func(l *Look) {
			l.Own = func(context.Context) []netip.Addr { return []netip.Addr{private} }
		}}, "authority yes, dns unknown, port 80 unknown, port 443 unknown, caa yes, budget yes"},
		{"silent ports", []func(*Look){silent}, "authority yes, dns yes, port 80 unknown, port 443 unknown, caa yes, budget yes"},
		{"CAA forbids", []func(*Look){func(l *Look) {
			l.ForbiddenBy = func(context.Context, string, [][]string) (string, error) { return "example.com", nil }
		}}, "authority yes, dns yes, port 80 yes, port 443 yes, caa no, budget yes"},
		{"the limit of the week", []func(*Look){func(l *Look) {
			l.Budget = func(name string) Budget { return Budget{Authorities: [][]string{nil}, Subject: name, SameName: 5} }
		}}, "authority yes, dns yes, port 80 yes, port 443 yes, caa yes, budget no"},
		{"told to wait", []func(*Look){func(l *Look) {
			l.Budget = func(name string) Budget {
				return Budget{Authorities: [][]string{nil}, Subject: name, Wait: time.Now().Add(time.Hour)}
			}
		}}, "authority yes, dns yes, port 80 yes, port 443 yes, caa yes, budget no"},
		{"through the zone", []func(*Look){func(l *Look) {
			l.Budget = func(string) Budget { return Budget{Authorities: [][]string{nil}, Subject: "*.example.com", DNS: true} }
		}}, "authority yes, dns yes, caa yes, budget yes"},
		{"nobody to ask", []func(*Look){func(l *Look) { l.Budget = func(string) Budget { return Budget{} } }}, "authority no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			look := good
			for _, f := range tt.change {
				f(&look)
			}
			list, err := newService(t, look).Preflight(context.Background(), " App.example.com ")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range list {
				verdict := "unknown"
				if c.OK != nil {
					verdict = map[bool]string{true: "yes", false: "no"}[*c.OK]
				}
				if c.Why == "" || verdict != "yes" && c.Advice == "" {
					t.Errorf("%+v", c)
				}
				got = append(got, c.Name+" "+verdict)
			}
			if s := strings.Join(got, ", "); s != tt.want {
				t.Errorf("%s\nwant %s", s, tt.want)
			}
		})
	}
	// Nobody is asked at an address that only this server may be able to reach.
	for _, text := range []string{
		"127.0.0.1", "10.0.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.1.2.3", "255.255.255.255", "192.0.0.192",
		"::1", "::ffff:100.64.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2001::8000:0:80ff:fffe",
		"fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "::ffff:0:10.0.0.1",
	} {
		look := good
		addrs(own, netip.MustParseAddr(text))(&look)
		look.Reach = func(context.Context, string, netip.Addr, bool) error {
			t.Errorf("asked, though the name leads to %s", text)
			return nil
		}
		if _, err := newService(t, look).Preflight(context.Background(), "app.example.com"); err != nil {
			t.Error(err)
		}
	}
	if _, err := newService(t, good).Preflight(context.Background(), "a b"); !isKind(err, model.KindInvalid, "domain") {
		t.Errorf("%v", err)
	}
}
