package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"gatecontrol/model"
)

// fixture is a file of a released schema in testdata. Both files go by the number
// of the intent schema.
func fixture(file string, schema int) string {
	name, ext := strings.TrimSuffix(file, ".db"), ".db"
	return filepath.Join("testdata", fmt.Sprintf("%s-v%d%s", name, schema, ext))
}

// fixtureDir is a data directory with the files of a released schema.
func fixtureDir(t testing.TB, schema int) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{IntentFile, HistoryFile} {
		write(t, filepath.Join(dir, file), contents(t, fixture(file, schema)))
	}
	return dir
}

// everything is one record of each kind that a schema has, as its fixture holds
// them. What a later schema adds to a record is filled in by its step or stays
// empty.
func everything(db *DB, schema int) error {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	text := func(s string) *string { return &s }
	err := db.Update(context.Background(), func(tx *Tx) error {
		user := model.User{
			Username: "Anna", DisplayName: "Anna", Email: "anna@example.com", PasswordHash: "!", Role: model.RoleAdmin,
			Language: "de", Theme: "default", Enabled: true, CreatedAt: at, UpdatedAt: at,
		}
		if err := Users.Insert(tx, &user); err != nil {
			return err
		}
		peer := model.Peer{
			Name: "nas", Description: text("cellar"), Type: model.PeerGateway, Enabled: true, User: user.ID, PublicKey: model.PublicKey{1},
			PrivateKey:   "000000000000000000000001:00000000000000000000000000000001:01",
			PresharedKey: "000000000000000000000002:00000000000000000000000000000002:02",
			AllowedIPs:   []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")}, DNS: []netip.Addr{netip.MustParseAddr("1.1.1.1")},
			Keepalive: 25, Tags: "home, NAS", ExpiresAt: &at, Hostname: "nas", HostnameSource: model.HostnameAdmin, HostnameReportedAt: &at,
			Gateway: &model.GatewayAccess{APIPort: 9876, ProxyPort: 8080, APITokenHash: "sha256:ab"}, CreatedAt: at, UpdatedAt: at,
		}
		if schema >= 2 {
			group := model.Group{Name: "Home", Color: "#aabbcc", Description: "the house", Isolated: true, NoExit: true, CreatedAt: at}
			if err := Groups.Insert(tx, &group); err != nil {
				return err
			}
			peer.Group = group.ID
		}
		if err := Peers.Insert(tx, &peer); err != nil {
			return err
		}
		for _, r := range []model.Route{
			{Type: model.RouteHTTP, Domain: "nas.example.com", Enabled: true, Target: model.Target{Peer: peer.ID, Addr: peer.Address(), Port: 80}, ForceHTTPS: true, CreatedAt: at, UpdatedAt: at},
			{Type: model.RouteL4, Enabled: true, Target: model.Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 1}, Description: text("games"),
				L4: &model.L4{Network: "udp", Ports: model.PortRange{First: 5000, Last: 5010}, TLS: model.TLSNone}, CreatedAt: at, UpdatedAt: at},
		} {
			if err := Routes.Insert(tx, &r); err != nil {
				return err
			}
		}
		if schema >= 3 {
			if err := errors.Join(
				Certificates.Insert(tx, &model.Certificate{
					Names: []string{"nas.example.com"}, Chain: "chain", Key: "000000000000000000000003:00000000000000000000000000000003:03",
					Issuer: "Some CA", NotBefore: at, NotAfter: at, CreatedAt: at,
				}),
				DNSZones.Put(tx, &model.DNSZone{
					Zone: "example.com", Provider: "rfc2136", Settings: map[string]string{"server": "192.0.2.1:53"},
					Secrets: "000000000000000000000004:00000000000000000000000000000004:04", Wildcard: true, UpdatedAt: at,
				}),
				CertItems.Put(tx, &CertItem{Key: "a/b", Value: "000000000000000000000005:00000000000000000000000000000005:05", Modified: at}),
			); err != nil {
				return err
			}
		}
		if schema >= 4 {
			if err := RouteCounters.Put(tx, &model.RouteCounters{ID: 1, BotsBlocked: 7}); err != nil {
				return err
			}
		}
		if schema >= 5 {
			w := model.DefaultWeb()
			w.Branding = model.Branding{Title: "title", Logo: "logo.png", Image: "image.jpg"}
			if err := errors.Join(
				Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "app.example.com", Web: &w, CreatedAt: at, UpdatedAt: at}),
				Pictures.Put(tx, "logo.png", []byte{0, 1}), Pictures.Put(tx, "image.jpg", []byte("jpg")),
			); err != nil {
				return err
			}
		}
		if schema >= 6 {
			monitored := model.Route{
				Type: model.RouteHTTP, Domain: "monitored.example.com", Enabled: true, Target: model.Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 2},
				Monitored: true, CreatedAt: at, UpdatedAt: at,
			}
			if err := Routes.Insert(tx, &monitored); err != nil {
				return err
			}
			if err := RouteChecks.Put(tx, &model.RouteCheck{
				ID: monitored.ID, Version: 3, Status: model.StatusDown, At: at, ChangedAt: &at, Took: time.Second, Reason: "why",
				Breaker: model.BreakerState{State: model.BreakerOpen, Failures: 1, OpenedAt: &at},
			}); err != nil {
				return err
			}
		}
		if schema >= 7 {
			windows := model.Windows{Last: 2, List: []model.Window{{
				ID: 2, Mode: model.WindowBlock, Schedule: "Sa-So 00:00-24:00", From: "2026-01-01", Until: "2026-12-31", Label: "weekends",
			}}}
			closing := model.Route{
				Type: model.RouteHTTP, Domain: "closing.example.com", Enabled: true, Target: model.Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 3},
				Windows: windows, CreatedAt: at, UpdatedAt: at,
			}
			peer.Windows = windows
			if err := errors.Join(Routes.Insert(tx, &closing), Peers.Put(tx, &peer)); err != nil {
				return err
			}
		}
		return errors.Join(
			Sessions.Put(tx, &model.Session{ID: "ab", User: user.ID, CSRFToken: "cd", ExpiresAt: at, CreatedAt: at}),
			Tokens.Insert(tx, &model.Token{Name: "script", Hash: "ef", Scopes: []model.Scope{model.ScopeFull}, User: user.ID, Peer: peer.ID, CreatedAt: at}),
			Settings.Put(tx, &Setting{"custom_dns", "9.9.9.9"}),
			Counters.Put(tx, &model.PeerCounters{ID: peer.ID, TotalRx: 5, TotalTx: 6, LastHandshake: at}),
			Outbox.Insert(tx, &model.Event{Type: "peer_created", Message: "m", Source: "admin", Severity: model.SeverityInfo, At: at}),
		)
	})
	if err != nil {
		return err
	}
	return db.UpdateHistory(func(tx *Tx) error {
		return errors.Join(
			Activity.Put(tx, &model.Event{ID: 1, Type: "system_start", Source: "system", Severity: model.SeverityInfo, At: at}),
			Traffic.Append(tx, at, &model.TrafficSample{At: at, UploadBytes: 1, DownloadBytes: 2, Peers: 1}),
		)
	})
}

// dump is every record of a store as JSON, bucket by bucket, but for what is
// different in every store.
func dump(t testing.TB, db *DB) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, b := range []*bbolt.DB{db.intent, db.history} {
		if err := b.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
				if string(name) == "meta" || string(name) == "secrets" {
					return nil
				}
				return bucket.ForEach(func(k, v []byte) error {
					all[fmt.Sprintf("%s %q", name, k)] = string(v)
					return nil
				})
			})
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// The fixture of the newest schema is written with -update, until it is released;
// afterwards it is never written again.
func TestFixtures(t *testing.T) {
	newest := SchemaVersion()
	if *updateFixture {
		dir := t.TempDir()
		db := open(t, dir)
		if err := everything(db, newest); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		for file, b := range map[string]*bbolt.DB{IntentFile: db.intent, HistoryFile: db.history} {
			if err := copyFile(b, fixture(file, newest)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for schema := 1; schema <= newest; schema++ {
		t.Run(fmt.Sprint("from ", schema), func(t *testing.T) {
			fresh := open(t, t.TempDir())
			if err := everything(fresh, schema); err != nil {
				t.Fatal(err)
			}
			want := dump(t, fresh)
			db := open(t, fixtureDir(t, schema))
			if got := dump(t, db); !maps.Equal(got, want) {
				for _, k := range slices.Sorted(maps.Keys(want)) {
					if got[k] != want[k] {
						t.Errorf("%s\n  is   %s\n  want %s", k, got[k], want[k])
					}
				}
				for k := range got {
					if _, ok := want[k]; !ok {
						t.Errorf("%s is left over", k)
					}
				}
			}
			// Every bucket is there: each can be read and written.
			read(t, db, func(tx *Tx) error {
				for _, n := range []int{Peers.Len(tx), Routes.Len(tx), Users.Len(tx), Sessions.Len(tx), Tokens.Len(tx), Settings.Len(tx), Secrets.Len(tx), Counters.Len(tx), Outbox.Len(tx)} {
					if n == 0 {
						t.Error("a table is empty")
					}
				}
				if n := Groups.Len(tx); (n > 0) != (schema >= 2) {
					t.Errorf("%d groups", n)
				}
				for _, n := range []int{Certificates.Len(tx), DNSZones.Len(tx), CertItems.Len(tx)} {
					if (n > 0) != (schema >= 3) {
						t.Errorf("%d records of certificates", n)
					}
				}
				if n := RouteCounters.Len(tx); (n > 0) != (schema >= 4) {
					t.Errorf("%d counters of routes", n)
				}
				if n := Pictures.Size(tx); (n > 0) != (schema >= 5) {
					t.Errorf("%d bytes of pictures", n)
				}
				if n := RouteChecks.Len(tx); (n > 0) != (schema >= 6) {
					t.Errorf("%d checks of routes", n)
				}
				if p, err := Peers.Find(tx, "hostname", "nas"); err != nil || p == nil {
					t.Errorf("the peer is not found by its host name: %v", err)
				}
				return nil
			})
			update(t, db, func(tx *Tx) error {
				p, err := Peers.Get(tx, 1)
				if err != nil {
					return err
				}
				g := model.Group{Name: "later"}
				if err := Groups.Insert(tx, &g); err != nil {
					return err
				}
				p.Name, p.Hostname, p.User, p.Group, p.ExpiresAt = "renamed", "", 0, g.ID, nil
				r, err := Routes.Get(tx, 1)
				if err != nil {
					return err
				}
				r.Monitored = true
				return errors.Join(Peers.Put(tx, p), Routes.Put(tx, r))
			})
			if _, err := os.Stat(filepath.Join(db.dir, IntentFile+preMigration)); (err == nil) != (schema < newest) {
				t.Errorf("copy of the old file: %v", err)
			}
		})
	}
}

// nextStep is a step that a later schema could have.
func nextStep(tx *bbolt.Tx) error {
	_, err := tx.CreateBucket([]byte("later"))
	return err
}

func hasBucket(t testing.TB, b *bbolt.DB, name string) (ok bool) {
	t.Helper()
	if err := b.View(func(tx *bbolt.Tx) error { ok = tx.Bucket([]byte(name)) != nil; return nil }); err != nil {
		t.Fatal(err)
	}
	return ok
}

func schema(t testing.TB, b *bbolt.DB) int {
	t.Helper()
	n, err := schemaOf(b, make([]step, 99))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInterruptedMigrationStartsOver(t *testing.T) {
	newest := SchemaVersion()
	dir := fixtureDir(t, newest)
	db := open(t, dir)
	before := dump(t, db)
	steps := append(slices.Clone(intentSteps), nextStep)
	broken := append(slices.Clone(steps), func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte("peers")); err != nil {
			return err
		}
		return errStop
	})
	unfinished := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("a failed step was taken for done")
		}
		if schema(t, db.intent) != newest || hasBucket(t, db.intent, "later") || !maps.Equal(dump(t, db), before) {
			t.Error("half of a migration was kept")
		}
	}
	unfinished(db.migrateFile(db.intent, broken))
	// The copy that was made before is a store of the old schema.
	old := t.TempDir()
	write(t, filepath.Join(old, IntentFile), contents(t, filepath.Join(dir, IntentFile+preMigration)))
	write(t, filepath.Join(old, HistoryFile), contents(t, filepath.Join(dir, HistoryFile)))
	if copied := open(t, old); !maps.Equal(dump(t, copied), before) {
		t.Error("the copy differs from what was there")
	}

	broken[newest+1] = func(*bbolt.Tx) error { panic("killed") }
	func() {
		defer func() { unfinished(fmt.Errorf("%v", recover())) }()
		_ = db.migrateFile(db.intent, broken)
	}()

	for range 2 { // and once done, it is not done again
		if err := db.migrateFile(db.intent, steps); err != nil {
			t.Fatal(err)
		}
	}
	if schema(t, db.intent) != newest+1 || !hasBucket(t, db.intent, "later") || !maps.Equal(dump(t, db), before) {
		t.Error("the migration is not whole")
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	for _, file := range []string{IntentFile, HistoryFile} {
		t.Run(file, func(t *testing.T) {
			dir := fixtureDir(t, 1)
			path := filepath.Join(dir, file)
			b, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Update(func(tx *bbolt.Tx) error { return (&Tx{b: tx}).setMetaNumber(schemaKey, 99) }); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			before := otherFiles(t, dir, "")
			_, err = Open(Options{Dir: dir, Sealer: testSealer(t, "5a"), Log: slog.New(slog.DiscardHandler)})
			wantUnavailable(t, err, file)
			if !strings.Contains(err.Error(), "99") {
				t.Errorf("%v does not say which", err)
			}
			if otherFiles(t, dir, "") != before {
				t.Error("something was written")
			}
		})
	}
}

// A schema is what the code says: a field that is renamed without a step would
// be lost from every stored record.
func TestRecordsDoNotLoseFields(t *testing.T) {
	db := open(t, fixtureDir(t, SchemaVersion()))
	read(t, db, func(tx *Tx) error {
		for p, err := range Peers.All(tx) {
			if err != nil {
				return err
			}
			got, err := json.Marshal(p)
			if err != nil {
				return err
			}
			if raw := tx.b.Bucket([]byte("peers")).Get(encodeKey(p.ID)); string(got) != string(raw) {
				t.Errorf("read and written again, a peer is\n%s, was\n%s", got, raw)
			}
		}
		for r, err := range Routes.All(tx) {
			if err != nil {
				return err
			}
			got, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if raw := tx.b.Bucket([]byte("routes")).Get(encodeKey(r.ID)); string(got) != string(raw) {
				t.Errorf("read and written again, a route is\n%s, was\n%s", got, raw)
			}
		}
		return nil
	})
}
