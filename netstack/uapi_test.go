package netstack

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatecontrol/model"
)

var uapiOptions = []cmp.Option{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func TestUAPIRoundTrip(t *testing.T) {
	psk := model.NewPresharedKey()
	want := uapiDevice{
		PrivateKey: model.NewPrivateKey(), ListenPort: new(uint16(51820)), ReplacePeers: true,
		Peers: []uapiPeer{
			{PublicKey: model.PublicKey{1}, Remove: true},
			{PublicKey: model.PublicKey{2}, UpdateOnly: true, PresharedKey: &psk, Keepalive: new(uint16(0)),
				Endpoint: netip.MustParseAddrPort("[fe80::1%eth0]:1"),
				LostIPs:  prefixes("10.0.0.0/8"), AllowedIPs: prefixes("10.8.0.2/32", "fd00::/64")},
			{PublicKey: model.PublicKey{1}, AllowedIPs: prefixes("0.0.0.0/0")},
		},
	}
	got, err := parseUAPI(want.encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, uapiOptions...); diff != "" {
		t.Fatal(diff)
	}
}

func TestParseUAPIStatus(t *testing.T) {
	key := strings.Repeat("ab", 32)
	d, err := parseUAPI("private_key=" + key + "\nlisten_port=7\nfwmark=1\npublic_key=" + key + "\npreshared_key=" + key +
		"\nprotocol_version=1\nendpoint=192.0.2.1:9\nlast_handshake_time_sec=5\nlast_handshake_time_nsec=6\n" +
		"tx_bytes=18446744073709551615\nrx_bytes=2\npersistent_keepalive_interval=25\nallowed_ip=10.8.0.2/32\n" +
		"public_key=" + key + "\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n")
	if err != nil {
		t.Fatal(err)
	}
	p := d.Peers[0]
	if !p.LastHandshake.Equal(time.Unix(5, 6)) || p.TxBytes != 1<<64-1 || p.RxBytes != 2 || *p.Keepalive != 25 || p.Endpoint.Port() != 9 {
		t.Fatalf("%+v", p)
	}
	if !d.Peers[1].LastHandshake.IsZero() {
		t.Fatal("never is not the zero time")
	}
}

func TestUAPIErrorsHoldNoSecret(t *testing.T) {
	secret := strings.Repeat("5e", 31)
	for _, text := range []string{
		"private_key=" + secret, "public_key=" + secret, "preshared_key=" + secret + "\n", secret, "=" + secret, secret + "=1",
		"public_key=" + strings.Repeat("00", 32) + "\npreshared_key=" + secret,
		"public_key=" + strings.Repeat("00", 32) + "\nallowed_ip=" + secret,
		"public_key=" + strings.Repeat("00", 32) + "\nendpoint=" + secret,
		"public_key=" + strings.Repeat("00", 32) + "\nrx_bytes=-1",
		"public_key=" + strings.Repeat("00", 32) + "\nlast_handshake_time_sec=9223372036854775807",
		"listen_port=65536", "replace_peers=false", "update_only=true",
	} {
		_, err := parseUAPI(text)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%.20s: %v", text, err)
		}
	}
}

func FuzzUAPI(f *testing.F) {
	psk := model.PrivateKey{9}
	d := uapiDevice{PrivateKey: model.PrivateKey{8}, ListenPort: new(uint16(1)), Peers: []uapiPeer{
		{PublicKey: model.PublicKey{1}, PresharedKey: &psk, AllowedIPs: prefixes("10.8.0.2/32"), Keepalive: new(uint16(25))},
		{PublicKey: model.PublicKey{2}, Remove: true},
	}}
	f.Add(d.encode())
	f.Add("public_key=" + strings.Repeat("00", 32) + "\nlast_handshake_time_sec=5\nlast_handshake_time_nsec=6\nallowed_ip=-::/0\n")
	f.Fuzz(func(t *testing.T, text string) {
		read, err := parseUAPI(text)
		if err != nil {
			return
		}
		for i := range read.Peers { // what only comes back is not sent
			p := &read.Peers[i]
			p.LastHandshake, p.RxBytes, p.TxBytes = time.Time{}, 0, 0
		}
		again, err := parseUAPI(read.encode())
		if err != nil {
			t.Fatalf("%q: %v", read.encode(), err)
		}
		if diff := cmp.Diff(read, again, uapiOptions...); diff != "" {
			t.Fatal(diff)
		}
	})
}

// lockedBuffer takes log lines from several goroutines; wireguard-go's workers
// log that they end after Close has told them to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// wireguard-go takes what we write, and neither log holds a key.
func TestLogHoldsNoSecret(t *testing.T) {
	var log lockedBuffer
	key := model.NewPrivateKey()
	peers := manyPeers(2)
	peers[0].PresharedKey = model.NewPresharedKey()
	d := newServer(t, func(o *Options) {
		o.PrivateKey = key
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	apply(t, d, Config{Peers: peers})
	for _, text := range []string{
		(&uapiDevice{PrivateKey: key}).encode()[:50],
		"public_key=" + strings.Repeat("00", 32) + "\npreshared_key=" + strings.Repeat("5e", 31),
		strings.Repeat("5e", 32),
	} {
		err := d.wg.IpcSet(text)
		if err == nil {
			t.Fatal("wireguard-go takes anything")
		}
		d.log.Error("refused", "err", uapiError(err))
	}
	_ = d.Close()
	psk := peers[0].PresharedKey
	for _, secret := range []string{key.Base64(), psk.Base64(), string(appendKey(nil, "", key)), string(appendKey(nil, "", psk)), "5e5e5e5e"} {
		if strings.Contains(log.String(), strings.Trim(secret, "=\n")) {
			t.Errorf("the log holds a secret:\n%s", log.String())
		}
	}
	if !strings.Contains(log.String(), "wireguard: ") {
		t.Error("no line of wireguard-go at debug level")
	}
}

func TestLogIsBounded(t *testing.T) {
	var log bytes.Buffer
	l := wireguardLogger(slog.New(slog.NewTextHandler(&log, nil)))
	for range 1000 {
		l.Errorf("peer %d does not answer", 1)
	}
	l.Verbosef("tracing")
	if n := strings.Count(log.String(), "\n"); n < 1 || n > 2*logBurst {
		t.Fatalf("%d lines", n)
	}
	if strings.Contains(log.String(), "tracing") {
		t.Fatal("verbose without debug level")
	}
}

func TestConfigEqual(t *testing.T) {
	base := func() Config {
		return Config{Peers: manyPeersFixed(), Exit: Exit{Enabled: true, Private: prefixes("10.0.0.0/8")}}
	}
	if !base().Equal(base()) {
		t.Fatal("the same is not equal")
	}
	for name, change := range map[string]func(*Config){
		"fewer peers":  func(c *Config) { c.Peers = c.Peers[:1] },
		"order":        func(c *Config) { c.Peers[0], c.Peers[1] = c.Peers[1], c.Peers[0] },
		"name":         func(c *Config) { c.Peers[0].Name = "x" },
		"key":          func(c *Config) { c.Peers[0].PublicKey[5]++ },
		"preshared":    func(c *Config) { c.Peers[0].PresharedKey[5]++ },
		"address":      func(c *Config) { c.Peers[0].AllowedIPs = prefixes("10.8.0.77/32") },
		"keepalive":    func(c *Config) { c.Peers[0].Keepalive++ },
		"endpoint":     func(c *Config) { c.Peers[0].Endpoint = netip.MustParseAddrPort("1.2.3.4:5") },
		"isolated":     func(c *Config) { c.Peers[0].Isolated = true },
		"no exit":      func(c *Config) { c.Peers[0].NoExit = true },
		"trusted":      func(c *Config) { c.Peers[0].Trusted = true },
		"server ports": func(c *Config) { c.Peers[0].ServerPorts = []uint16{80} },
		"exit":         func(c *Config) { c.Exit.Enabled = false },
		"exit ranges":  func(c *Config) { c.Exit.Private = nil },
	} {
		other := base()
		change(&other)
		if base().Equal(other) {
			t.Errorf("%s: equal", name)
		}
	}
}

func manyPeersFixed() []Peer {
	return []Peer{
		{Name: "a", PublicKey: model.PublicKey{1}, AllowedIPs: prefixes("10.8.0.2/32")},
		{Name: "b", PublicKey: model.PublicKey{2}, AllowedIPs: prefixes("10.8.0.3/32")},
	}
}
