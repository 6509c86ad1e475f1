package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

var updateGolden = flag.Bool("update", false, "rewrite testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func newService(t testing.TB) (*Service, *store.DB) {
	t.Helper()
	db := storetest.Open(t)
	return New(Options{DB: db, Now: func() time.Time { return noon }}), db
}

// The sealed texts of the filled store; a real one differs with every sealing.
const (
	sealedPrivate   = "000000000000000000000001:00000000000000000000000000000001:01"
	sealedPreshared = "000000000000000000000002:00000000000000000000000000000002:02"
	sealedPush      = "000000000000000000000003:00000000000000000000000000000003:03"
)

// fill stores one of everything that a backup holds.
func fill(t testing.TB, db *store.DB) {
	t.Helper()
	text := func(s string) *string { return &s }
	at := func(d time.Duration) *time.Time { t := noon.Add(d); return &t }
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	ip := netip.MustParseAddr
	err := db.Update(context.Background(), func(tx *store.Tx) error {
		if err := errors.Join(
			store.Certificates.Insert(tx, &model.Certificate{Names: []string{"app.example.com"}, Chain: "PEM", Key: sealedPrivate, CreatedAt: noon}),
			store.DNSZones.Put(tx, &model.DNSZone{Zone: "example.com", Provider: "rfc2136", Settings: map[string]string{"server": "192.0.2.1"}, Secrets: sealedPush, Wildcard: true, UpdatedAt: noon}),
			store.CertItems.Put(tx, &store.CertItem{Key: "certificates/ca/a.test/a.test.key", Value: sealedPreshared, Modified: noon}),
			store.CertItems.Put(tx, &store.CertItem{Key: "attempts/a.test.json", Value: sealedPreshared, Modified: noon}),
		); err != nil {
			return err
		}
		user := &model.User{
			Username: "anna", DisplayName: "Anna", Email: "anna@example.com", PasswordHash: "$argon2id$v=19$x", Role: model.RoleAdmin,
			Language: "de", Theme: "default", Enabled: true, LastLoginAt: at(0), CreatedAt: noon, UpdatedAt: noon,
		}
		if err := store.Users.Insert(tx, user); err != nil {
			return err
		}
		group := &model.Group{Name: "House", Color: "#aabbcc", Description: "all floors", Isolated: true, NoExit: true, CreatedAt: noon}
		for _, g := range []*model.Group{group, {Name: "empty", Color: model.DefaultGroupColor, CreatedAt: noon}} {
			if err := store.Groups.Insert(tx, g); err != nil {
				return err
			}
		}
		windows := model.Windows{Last: 2, List: []model.Window{{
			ID: 2, Mode: model.WindowAllow, Schedule: "Mo-Fr 09:00-17:00", From: "2026-01-01", Until: "2026-12-31", Label: "office",
		}}}
		nas := &model.Peer{
			Name: "nas", Description: text("cellar"), Type: model.PeerRegular, Enabled: true, User: user.ID, Group: group.ID,
			PublicKey: model.PublicKey{1}, PrivateKey: sealedPrivate, PresharedKey: sealedPreshared,
			AllowedIPs: prefix("10.8.0.2/32"), DNS: []netip.Addr{ip("1.1.1.1"), ip("9.9.9.9")}, Keepalive: 25,
			RateLimitUp: 1_000_000, RateLimitDown: 2_000_000, QuotaBytes: 5 << 30, QuotaAction: model.QuotaNotify, Isolated: true, NoExit: true, Trusted: true,
			Tags: "home, NAS", ExpiresAt: at(24 * time.Hour), Hostname: "nas", HostnameSource: model.HostnameAdmin,
			HostnameReportedAt: at(time.Minute), Windows: windows, CreatedAt: noon, UpdatedAt: noon,
		}
		home := &model.Peer{
			Name: "home", Type: model.PeerGateway, PublicKey: model.PublicKey{2}, AllowedIPs: prefix("10.8.0.3/32"),
			Gateway:   &model.GatewayAccess{APIPort: 9876, ProxyPort: 8080, APITokenHash: "sha256:ab", PushToken: sealedPush},
			CreatedAt: noon, UpdatedAt: noon,
		}
		for _, p := range []*model.Peer{nas, home} {
			if err := store.Peers.Insert(tx, p); err != nil {
				return err
			}
		}
		if err := store.Counters.Put(tx, &model.PeerCounters{ID: nas.ID, TotalRx: 5, TotalTx: 6, LastHandshake: noon}); err != nil {
			return err
		}
		for _, r := range []*model.Route{
			{Type: model.RouteHTTP, Domain: "nas.example.com", Enabled: true, Target: model.Target{Peer: nas.ID, Addr: ip("10.8.0.2"), Port: 5000}, ForceHTTPS: true, Windows: windows, CreatedAt: noon, UpdatedAt: noon},
			{Type: model.RouteL4, Target: model.Target{Addr: ip("127.0.0.1"), Port: 1}, Description: text("games"),
				L4: &model.L4{Network: "udp", Ports: model.PortRange{First: 5000, Last: 5010}, TLS: model.TLSNone}, CreatedAt: noon, UpdatedAt: noon},
			{Type: model.RouteHTTP, Domain: "all.example.com", Enabled: true, Target: model.Target{Peer: nas.ID, Addr: ip("10.8.0.2"), Port: 5000}, Monitored: true, CreatedAt: noon, UpdatedAt: noon,
				Web: allOptions(nas.ID, home.ID, user.ID)},
			{Type: model.RouteHTTP, Domain: "behind.example.com", Enabled: true, BackendHTTPS: true, CreatedAt: noon, UpdatedAt: noon,
				Target: model.Target{Port: 5001, Gateway: &model.GatewayTarget{Peer: home.ID, Host: "192.168.2.228", Port: 5001}}},
		} {
			if err := store.Routes.Insert(tx, r); err != nil {
				return err
			}
		}
		if err := store.RouteCounters.Put(tx, &model.RouteCounters{ID: 3, BotsBlocked: 12}); err != nil {
			return err
		}
		if err := store.RouteChecks.Put(tx, &model.RouteCheck{
			ID: 3, Version: 4, Status: model.StatusDown, At: noon, ChangedAt: at(-time.Hour), Took: 1234 * time.Millisecond, Reason: "why",
			Breaker: model.BreakerState{State: model.BreakerOpen, OpenedAt: at(0)},
		}); err != nil {
			return err
		}
		token := &model.Token{
			Name: "script", Hash: "cd", Scopes: []model.Scope{model.ScopePeers, model.ScopeClientDNS}, User: user.ID, Peer: nas.ID,
			ExpiresAt: at(time.Hour), CreatedAt: noon,
		}
		if err := store.Tokens.Insert(tx, token); err != nil {
			return err
		}
		return store.Settings.Put(tx, &store.Setting{Key: "custom_dns", Value: "9.9.9.9"})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// allOptions has every option on and no value that is the default. 99 is nobody.
func allOptions(nas, home model.PeerID, user model.UserID) *model.Web {
	return &model.Web{
		Block:     model.BlockReply{Action: model.BlockCustom, Body: "<p>no</p>", URL: "https://example.org"},
		ACL:       model.ACL{Enabled: true, Peers: []model.PeerID{home, 99}},
		IPFilter:  model.IPFilter{Enabled: true, Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: "country", Value: "DE"}}},
		BasicAuth: model.BasicAuth{Enabled: true, User: "u", Hash: "$2a$10$x"},
		Bots:      model.BotBlocker{Enabled: true, Mode: model.BotCustom, Message: "go", Status: 410},
		RateLimit: model.RateLimit{Enabled: true, Requests: 7, Window: time.Hour},
		Breaker:   model.Breaker{Enabled: true, Threshold: 7, Timeout: time.Minute, Open: true},
		ClientTLS: model.ClientTLS{Enabled: true, CA: "PEM"},
		Compress:  true,
		Headers:   &model.Headers{Request: []model.HeaderField{{Name: "A", Value: "b"}}, Response: []model.HeaderField{}},
		Backends:  []model.Backend{{Peer: nas, Port: 80, Weight: 2}, {Peer: home, Port: 81, Weight: 1}},
		Sticky:    model.Sticky{Enabled: true, Cookie: "c", TTL: time.Minute},
		Retry:     model.Retry{Enabled: true, Count: 9, Statuses: []int{500}},
		Mirror:    model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: home, Port: 82}}},
		Paths:     []model.Path{{Prefix: "/a", Strip: true, Peer: home, Port: 83}, {Prefix: "/b", Redirect: "/c", Status: 302}},
		Trace:     true, Users: []int64{int64(user), 99},
		Branding: model.Branding{Title: "t", Text: "x", Color: "red", Background: "blue", Logo: "l.png", Image: "i.jpg"},
	}
}

func export(t testing.TB, s *Service) (text []byte) {
	t.Helper()
	a, err := s.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text, err = json.MarshalIndent(a, "", "  "); err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func TestExport(t *testing.T) {
	for name, filled := range map[string]bool{"empty": false, "full": true} {
		t.Run(name, func(t *testing.T) {
			s, db := newService(t)
			if filled {
				fill(t, db)
			}
			got := export(t, s)
			path := filepath.Join("testdata", name+".json")
			if *updateGolden {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs, got:\n%s", path, got)
			}
		})
	}
}

// columns are those that a file of version 4 has, by section.
var columns = map[string]string{
	"peer_groups": `name color description created_at`,
	"peers": `name description public_key private_key_encrypted preshared_key_encrypted allowed_ips endpoint dns persistent_keepalive
		enabled transfer_rx transfer_tx latest_handshake total_rx total_tx tags expires_at hostname hostname_source
		hostname_reported_at peer_type created_at updated_at group_name`,
	"routes": `domain target_ip target_port description https_enabled backend_https basic_auth_enabled basic_auth_user
		basic_auth_password_hash enabled route_type l4_protocol l4_listen_port l4_tls_mode branding_title branding_text branding_logo
		branding_color branding_bg branding_bg_image ip_filter_enabled ip_filter_mode ip_filter_rules monitoring_enabled monitoring_status
		monitoring_last_check monitoring_last_change monitoring_response_time acl_enabled compress_enabled custom_headers
		rate_limit_enabled rate_limit_requests rate_limit_window retry_enabled retry_count retry_match_status backends sticky_enabled
		sticky_cookie_name sticky_cookie_ttl circuit_breaker_enabled circuit_breaker_threshold circuit_breaker_timeout mirror_enabled
		mirror_targets debug_enabled bot_blocker_enabled bot_blocker_mode bot_blocker_count bot_blocker_config user_ids target_kind
		target_lan_host target_lan_port wol_enabled wol_mac created_at updated_at peer_name target_peer_name acl_peer_names`,
	"users": `username display_name email password_hash role language theme enabled last_login_at created_at updated_at`,
	"api_tokens": `name token_hash scopes created_at expires_at last_used_at machine_fingerprint machine_binding_enabled
		split_tunnel_override peer_name user_name`,
	"gateway_meta": `api_port api_token_hash push_token_encrypted needs_repair last_seen_at last_config_hash last_health created_at peer_name`,
	"settings":     `key value`,
}

// additions are columns of ours beside them.
var additions = map[string]string{
	"peer_groups": "isolated no_exit",
	"peers":       "user_name rate_limit_up rate_limit_down quota_bytes quota_action isolated no_exit trusted access_rules",
	"routes": "user_names external_enabled external_block_action external_block_body external_block_redirect_url " +
		"client_tls_enabled client_tls_ca paths access_rules",
	"users": "must_change_password", "gateway_meta": "proxy_port",
}

func TestExportHasEveryColumn(t *testing.T) {
	s, db := newService(t)
	fill(t, db)
	var file struct {
		Version int
		Data    map[string][]map[string]any
	}
	if err := json.Unmarshal(export(t, s), &file); err != nil {
		t.Fatal(err)
	}
	for _, ours := range []string{"certificates", "dns_zones", "certificate_items"} { // which GateControl passes over
		if len(file.Data[ours]) != 1 {
			t.Errorf("%s has %d entries", ours, len(file.Data[ours]))
		}
		delete(file.Data, ours)
	}
	sections := "api_tokens gateway_meta peer_groups peers rdp_routes route_auth routes service_bundles settings tags users webhooks"
	if got := strings.Join(slices.Sorted(maps.Keys(file.Data)), " "); got != sections || file.Version != 4 {
		t.Errorf("version %d, sections %s", file.Version, got)
	}
	for section, want := range columns {
		if len(file.Data[section]) == 0 {
			t.Errorf("%s is empty", section)
		}
		expected := append(strings.Fields(want), strings.Fields(additions[section])...)
		slices.Sort(expected)
		for _, entry := range file.Data[section] {
			if got := slices.Sorted(maps.Keys(entry)); !slices.Equal(got, expected) {
				t.Errorf("%s has\n%v, want\n%v", section, got, expected)
			}
		}
	}
}

func TestExportEvent(t *testing.T) {
	s, db := newService(t)
	export(t, s)
	err := db.View(func(tx *store.Tx) error {
		e, err := store.Outbox.Get(tx, 1)
		if err != nil || e == nil || e.Type != "backup_created" || e.Severity != model.SeverityInfo {
			t.Errorf("event %+v, %v", e, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
