package peers

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image/png"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/skip2/go-qrcode"

	"gatecontrol/model"
	"gatecontrol/store"
)

// known inserts a peer with fixed keys.
func (b *bench) known(t testing.TB, change ...func(*model.Peer)) *model.Peer {
	t.Helper()
	p := &model.Peer{
		Name: "Laptop (work)", Type: model.PeerRegular, Enabled: true, Keepalive: 25, PublicKey: fixedKey(1).Public(),
		PrivateKey: b.db.Sealer().SealKey(fixedKey(1)), PresharedKey: b.db.Sealer().SealKey(fixedKey(2)),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.5/32")}, CreatedAt: noon, UpdatedAt: noon,
	}
	for _, f := range change {
		f(p)
	}
	b.write(t, func(tx *store.Tx) error { return store.Peers.Insert(tx, p) })
	return p
}

func TestConfigText(t *testing.T) {
	dns := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, c := range []struct {
		name, golden string
		custom       string
		options      func(*Options)
		peer         func(*model.Peer)
	}{
		{name: "as made", golden: "plain.conf"},
		{name: "no keepalive, no MTU, no preshared key", golden: "bare.conf",
			options: func(o *Options) { o.Tunnel.MTU = 0 },
			peer:    func(p *model.Peer) { p.Keepalive, p.PresharedKey = 0, "" }},
		{name: "private key on the device", golden: "placeholder.conf", peer: func(p *model.Peer) { p.PrivateKey = "" }},
		{name: "own resolvers", golden: "dns.conf", custom: "9.9.9.9",
			peer: func(p *model.Peer) { p.DNS = dns("1.1.1.1", "8.8.8.8") }},
		{name: "resolvers of the setting", golden: "custom-dns.conf", custom: "9.9.9.9, 1.0.0.1"},
		{name: "a setting that cannot be read", golden: "plain.conf", custom: "nonsense\nEndpoint = evil:1"},
		{name: "resolvers of the tunnel, IPv6 endpoint, two networks", golden: "tunnel.conf",
			options: func(o *Options) {
				o.Tunnel.DNS, o.Tunnel.Endpoint, o.Tunnel.AllowedIPs = dns("10.8.0.1", "1.1.1.1"), "[2001:db8::1]:51820", "0.0.0.0/0, ::/0"
			}},
		{name: "IPv6 in the tunnel", golden: "ipv6.conf", options: func(o *Options) {
			o.Tunnel.Subnet6, o.Tunnel.AllowedIPs = netip.MustParsePrefix("fd00:8::/64"), "0.0.0.0/0, ::/0"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var opts []func(*Options)
			if c.options != nil {
				opts = append(opts, c.options)
			}
			b := newBench(t, "10.8.0.0/24", opts...)
			var change []func(*model.Peer)
			if c.peer != nil {
				change = append(change, c.peer)
			}
			p := b.known(t, change...)
			if c.custom != "" {
				b.write(t, func(tx *store.Tx) error {
					return store.Settings.Put(tx, &store.Setting{Key: "custom_dns", Value: c.custom})
				})
			}
			name, text, err := b.Config(t.Context(), p.ID)
			if err != nil {
				t.Fatal(err)
			}
			if name != p.Name {
				t.Errorf("name %q", name)
			}
			golden(t, c.golden, text)
		})
	}
}

// Clients reconnect when the hash of the text moves, so only what is in the text
// may move it.
func TestConfigHashIsStable(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	c := b.create(t, "a")
	hash := func() string {
		_, text, err := b.Config(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	first := hash()
	for _, change := range []string{
		`{"description":"d","tags":"x","name":"b","expires_at":"2030-01-01"}`, `{"enabled":false}`, `{"enabled":true,"dns":""}`,
	} {
		if _, err := b.Update(t.Context(), c.ID, input(t, change)); err != nil {
			t.Fatal(err)
		}
		if got := hash(); got != first {
			t.Errorf("%s moved the hash", change)
		}
	}
	if _, err := b.Update(t.Context(), c.ID, input(t, `{"dns":"1.1.1.1"}`)); err != nil {
		t.Fatal(err)
	}
	if hash() == first {
		t.Error("another resolver left the hash alone")
	}
}

func input(t testing.TB, body string) (in Input) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &in); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestConfigOfUnknownPeer(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	_, _, err := b.Config(t.Context(), 1)
	wantError(t, err, model.KindNotFound, "")
	_, _, _, err = b.QR(t.Context(), 1)
	wantError(t, err, model.KindNotFound, "")
}

func TestConfigSealedWithAnotherKey(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	other, err := store.NewSealer(model.Secret(strings.Repeat("00", 32)))
	if err != nil {
		t.Fatal(err)
	}
	p := b.known(t, func(p *model.Peer) { p.PrivateKey = other.SealKey(fixedKey(1)) })
	if _, text, err := b.Config(t.Context(), p.ID); err == nil {
		t.Errorf("a config without its key:\n%s", text)
	}
}

// A code holds 2331 bytes; the networks of clients are a setting without a bound.
func TestQRThatDoesNotFit(t *testing.T) {
	b := newBench(t, "10.8.0.0/24", func(o *Options) {
		o.Tunnel.AllowedIPs = strings.Repeat("192.168.100.0/24,", 150) + "10.8.0.0/24"
	})
	p := b.create(t, "nas")
	_, _, _, err := b.QR(t.Context(), p.ID)
	wantError(t, err, model.KindInvalid, "")
}

func TestQR(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.known(t)
	name, text, img, err := b.QR(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, conf, _ := b.Config(t.Context(), p.ID); name != p.Name || text != conf {
		t.Error("the QR code is of another config")
	}
	m, err := png.Decode(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Bounds().Size(); s.X != 280 || s.Y != 280 {
		t.Fatalf("%v pixels", s)
	}
	code, err := qrcode.New(text, qrcode.Medium)
	if err != nil {
		t.Fatal(err)
	}
	code.DisableBorder = true
	want := code.Bitmap()
	// The first dark pixel is the corner of the code, and the edge of its finder
	// pattern is seven modules long.
	dark := func(x, y int) bool { r, _, _, _ := m.At(x, y).RGBA(); return r < 0x8000 }
	border := 0
	for !dark(border, border) {
		border++
	}
	edge := 0
	for dark(border+edge, border) {
		edge++
	}
	scale := edge / 7
	if border < 2*scale || scale < 2 {
		t.Errorf("border of %d pixels at %d pixels a module", border, scale)
	}
	got := make([][]bool, len(want))
	for y := range want {
		for x := range want {
			got[y] = append(got[y], dark(border+x*scale+scale/2, border+y*scale+scale/2))
		}
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Error("the image shows other modules than the code has")
	}
	if r, g, bl, _ := m.At(border, border).RGBA(); r>>8 != 0x1c || g>>8 != 0x19 || bl>>8 != 0x17 {
		t.Errorf("dark is #%02x%02x%02x", r>>8, g>>8, bl>>8)
	}
}

func TestConfigFile(t *testing.T) {
	for name, want := range map[string]string{
		"Laptop": "Laptop.conf", "my laptop.2": "my_laptop.2.conf", "a/../b\r\nc": "a_.._b__c.conf", "Büro": "B_ro.conf",
	} {
		if got := ConfigFile(name); got != want {
			t.Errorf("ConfigFile(%q) = %q, want %q", name, got, want)
		}
	}
}

// confLine is what a line of a config may look like.
var confLine = regexp.MustCompile(`^(\[(Interface|Peer)\]|[A-Za-z]+ = [A-Za-z0-9+/=.:<>_, -]+|)$`)

// No field of a peer can bring a line of its own into a config or env file.
func FuzzConfigText(f *testing.F) {
	f.Add("a", "1.1.1.1", "nas", "", int64(25))
	f.Add("a\nb", "1.1.1.1\nEndpoint = evil:1", "nas\r", fixedKey(7).Public().String()+"\n", int64(-1))
	f.Add("a", "1.1.1.1,\u20288.8.8.8", "nas", fixedKey(7).Public().String(), int64(70000))
	b := newBench(f, "10.8.0.0/24")
	f.Fuzz(func(t *testing.T, name, dns, host, key string, keepalive int64) {
		for _, gateway := range []bool{false, true} {
			c, err := b.Create(t.Context(), Input{
				Name: model.Value(name), DNS: model.Value(dns), Hostname: model.Value(host), PublicKey: model.Value(key),
				Keepalive: model.Value(keepalive), Description: model.Value(dns), Tags: model.Value(host), IsGateway: model.Value(gateway),
			})
			if err != nil {
				continue
			}
			_, text, err := b.Config(t.Context(), c.ID)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Delete(t.Context(), c.ID); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(text, "\n")
			if n := len(lines); n < 10 || n > 13 {
				t.Errorf("%d lines:\n%s", n, text)
			}
			for _, l := range lines {
				if !confLine.MatchString(l) {
					t.Errorf("line %q in:\n%s", l, text)
				}
			}
			if gateway && strings.Count(c.Gateway.EnvContent.Reveal(), "\n") != 21 {
				t.Errorf("env file:\n%s", c.Gateway.EnvContent.Reveal())
			}
		}
	})
}

func BenchmarkConfig(b *testing.B) {
	bb := newBench(b, "10.8.0.0/24")
	p := bb.known(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := bb.Config(b.Context(), p.ID); err != nil {
			b.Fatal(err)
		}
	}
}
