package store

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"gatecontrol/model"
)

// This file is the map of the store: every bucket, the shape of its key and
// record, its indexes and its class.

// Peers are keyed by number.
//
//	name        unique
//	public_key  unique, base64
//	address     unique, tunnel address
//	hostname    unique, lower case; only peers that have one
//	user        those of one user
//	group       members of one group
//	expiry      enabled peers that expire, in the order of time (ExpiryKey)
//	windows     enabled peers that have access windows, by their name
var Peers = Table[model.PeerID, model.Peer]{
	name: "peers", class: Intent,
	key: func(p *model.Peer) *model.PeerID { return &p.ID },
	indexes: []Index[model.Peer]{
		{Name: "name", Unique: true, Keys: func(p *model.Peer) []string { return []string{p.Name} }},
		{Name: "public_key", Unique: true, Keys: func(p *model.Peer) []string { return []string{p.PublicKey.String()} }},
		{Name: "address", Unique: true, Keys: func(p *model.Peer) []string { return []string{p.Address().String()} }},
		{Name: "hostname", Unique: true, Keys: func(p *model.Peer) []string { return some(p.Hostname) }},
		{Name: "user", Keys: func(p *model.Peer) []string { return someID(int64(p.User)) }},
		{Name: "group", Keys: func(p *model.Peer) []string { return someID(int64(p.Group)) }},
		{Name: "expiry", Keys: func(p *model.Peer) []string {
			if !p.Enabled || p.ExpiresAt == nil {
				return nil
			}
			return []string{ExpiryKey(*p.ExpiresAt)}
		}},
		{Name: "windows", Keys: func(p *model.Peer) []string {
			if !p.Enabled || len(p.Windows.List) == 0 {
				return nil
			}
			return []string{p.Name}
		}},
	},
}

// expiryLayout has a fixed width, so that texts sort as times.
const expiryLayout = "2006-01-02T15:04:05.000000000Z"

// ExpiryKey is the key under which the expiry index of Peers holds t.
func ExpiryKey(t time.Time) string { return t.UTC().Format(expiryLayout) }

// ExpiryTime is the inverse of ExpiryKey.
func ExpiryTime(key string) (time.Time, error) { return time.Parse(expiryLayout, key) }

// Groups are keyed by number; name is unique, in the order in which they are
// listed. Case counts, as it does in GateControl, one of whose backups may hold
// groups that differ in nothing else.
var Groups = Table[model.GroupID, model.Group]{
	name: "groups", class: Intent,
	key: func(g *model.Group) *model.GroupID { return &g.ID },
	indexes: []Index[model.Group]{
		{Name: "name", Unique: true, Keys: func(g *model.Group) []string { return []string{g.Name} }},
	},
}

// Routes are keyed by number.
//
//	domain     unique among routes of type http
//	peer       routes that name that peer: as their target or in their options
//	order      type/domain, the order in which they are listed
//	listen     network/ports of enabled port routes, in the order of ports (ListenKey)
//	monitored  enabled ones that are checked time and again, by model.Route.Label
//	windows    enabled ones that have access windows, likewise
var Routes = Table[model.RouteID, model.Route]{
	name: "routes", class: Intent,
	key: func(r *model.Route) *model.RouteID { return &r.ID },
	indexes: []Index[model.Route]{
		{Name: "domain", Unique: true, Keys: func(r *model.Route) []string {
			if r.Type != model.RouteHTTP {
				return nil
			}
			return some(r.Domain)
		}},
		{Name: "peer", Keys: func(r *model.Route) (keys []string) {
			for _, id := range r.Peers() {
				keys = append(keys, id.String())
			}
			return keys
		}},
		{Name: "order", Keys: func(r *model.Route) []string { return []string{string(r.Type) + "/" + r.Domain} }},
		{Name: "listen", Keys: func(r *model.Route) []string {
			if !r.Enabled || r.L4 == nil {
				return nil
			}
			return []string{ListenKey(r.L4.Network, r.L4.Ports)}
		}},
		{Name: "monitored", Keys: func(r *model.Route) []string {
			if !r.Enabled || !r.Monitored {
				return nil
			}
			return []string{r.Label()}
		}},
		{Name: "windows", Keys: func(r *model.Route) []string {
			if !r.Enabled || len(r.Windows.List) == 0 {
				return nil
			}
			return []string{r.Label()}
		}},
	},
}

// ListenKey is the key under which the listen index of Routes holds the ports
// of a route.
func ListenKey(network string, r model.PortRange) string {
	return fmt.Sprintf("%s/%05d-%05d", network, r.First, r.Last)
}

// ListenPorts is the inverse of ListenKey.
func ListenPorts(key string) (network string, r model.PortRange, err error) {
	network, ports, _ := strings.Cut(key, "/")
	first, last, _ := strings.Cut(ports, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return "", r, err
	}
	b, err := strconv.ParseUint(last, 10, 16)
	return network, model.PortRange{First: uint16(a), Last: uint16(b)}, err
}

// Users are keyed by number; name is their user name in lower case, unique.
var Users = Table[model.UserID, model.User]{
	name: "users", class: Runtime,
	key: func(u *model.User) *model.UserID { return &u.ID },
	indexes: []Index[model.User]{
		{Name: "name", Unique: true, Keys: func(u *model.User) []string { return []string{strings.ToLower(u.Username)} }},
	},
}

// Sessions are keyed by the hash of their cookie; user finds those of one user.
var Sessions = Table[model.SessionID, model.Session]{
	name: "sessions", class: Runtime,
	key: func(s *model.Session) *model.SessionID { return &s.ID },
	indexes: []Index[model.Session]{
		{Name: "user", Keys: func(s *model.Session) []string { return []string{strconv.FormatInt(int64(s.User), 10)} }},
	},
}

// Tokens are keyed by number; hash is unique, peer finds those of one peer.
var Tokens = Table[model.TokenID, model.Token]{
	name: "tokens", class: Runtime,
	key: func(t *model.Token) *model.TokenID { return &t.ID },
	indexes: []Index[model.Token]{
		{Name: "hash", Unique: true, Keys: func(t *model.Token) []string { return []string{t.Hash} }},
		{Name: "peer", Keys: func(t *model.Token) []string { return someID(int64(t.Peer)) }},
	},
}

// LoginFailures are the failed sign-ins that still count against one account or
// one browser.
type LoginFailures struct {
	Key string      `json:"key"`
	At  []time.Time `json:"at"`
}

// Lockouts are keyed by what a failed sign-in counts against, as accounts spells
// it.
var Lockouts = Table[string, LoginFailures]{
	name: "lockouts", class: Runtime,
	key: func(f *LoginFailures) *string { return &f.Key },
}

// Setting is one key of the settings and its value.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Settings are keyed by their name, as a backup spells it.
var Settings = Table[string, Setting]{
	name: "settings", class: Intent,
	key: func(s *Setting) *string { return &s.Key },
}

// SealedBlob is something secret of the server's own: its WireGuard key, the
// key of its certificate authority.
type SealedBlob struct {
	Name   string       `json:"name"`
	Sealed model.Sealed `json:"sealed"`
}

// Secrets are keyed by what they are.
var Secrets = Table[string, SealedBlob]{
	name: "secrets", class: Runtime,
	key: func(s *SealedBlob) *string { return &s.Name },
}

// Certificates are keyed by number: those that were brought. A renewal by hand is
// no change of intent, and none of the planes that reconcile knows shows them.
var Certificates = Table[model.CertificateID, model.Certificate]{
	name: "certificates", class: Runtime,
	key: func(c *model.Certificate) *model.CertificateID { return &c.ID },
}

// DNSZones are keyed by zone.
var DNSZones = Table[string, model.DNSZone]{
	name: "dnszones", class: Runtime,
	key: func(z *model.DNSZone) *string { return &z.Zone },
}

// CertItem is one item of what the certificates that the server got by itself
// come with: chains, keys, accounts, attempts. See Blobs.
type CertItem struct {
	Key      string       `json:"key"`
	Value    model.Sealed `json:"value"`
	Modified time.Time    `json:"modified"`
}

// CertItems are keyed by a path, as whoever keeps them spells it.
var CertItems = Table[string, CertItem]{
	name: "certitems", class: Runtime,
	key: func(c *CertItem) *string { return &c.Key },
}

// Counters are keyed by peer.
var Counters = Table[model.PeerID, model.PeerCounters]{
	name: "counters", class: Runtime,
	key: func(c *model.PeerCounters) *model.PeerID { return &c.ID },
}

// RouteCounters are keyed by route. One without any has none.
var RouteCounters = Table[model.RouteID, model.RouteCounters]{
	name: "route_counters", class: Runtime,
	key: func(c *model.RouteCounters) *model.RouteID { return &c.ID },
}

// Pictures are the pictures of sign-in pages, by the names that their routes have
// for them. Strangers are shown them, so they are not sealed.
var Pictures = Raw{name: "pictures"}

// RouteChecks are keyed by route. One that was never checked has none.
var RouteChecks = Table[model.RouteID, model.RouteCheck]{
	name: "route_checks", class: Runtime,
	key: func(c *model.RouteCheck) *model.RouteID { return &c.ID },
}

// Outbox holds the events of committed transactions until they are in the
// activity log, under the number that they keep there.
var Outbox = Table[model.EventID, model.Event]{
	name: "outbox", class: Runtime,
	key: func(e *model.Event) *model.EventID { return &e.ID },
}

// Activity is the activity log, in the history file.
var Activity = Table[model.EventID, model.Event]{
	name: "activity", class: History,
	key: func(e *model.Event) *model.EventID { return &e.ID },
}

// Traffic is the traffic of all peers over time, in the history file.
var Traffic = Series[model.TrafficSample]{name: "traffic"}

// bucketed is a table, a series or raw bytes.
type bucketed interface{ buckets() [][]byte }

// What each file holds, as the newest schema has it.
func intentTables() []bucketed {
	return []bucketed{&Peers, &Groups, &Routes, &Users, &Sessions, &Tokens, &Lockouts, &Settings, &Secrets, &Certificates, &DNSZones, &CertItems, &Counters, &RouteCounters, &Pictures, &RouteChecks, &Outbox}
}

func historyTables() []bucketed { return []bucketed{&Activity, &Traffic} }

func createIntent(tx *bbolt.Tx) error { return create(tx, intentTables()) }

func createHistory(tx *bbolt.Tx) error { return create(tx, historyTables()) }

func create(tx *bbolt.Tx, tables []bucketed) error {
	for _, t := range tables {
		for _, name := range t.buckets() {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// checkBuckets refuses a file that lacks a bucket of the newest schema.
func checkBuckets(b *bbolt.DB, tables []bucketed) error {
	return b.View(func(tx *bbolt.Tx) error {
		for _, t := range tables {
			for _, name := range t.buckets() {
				if tx.Bucket(name) == nil {
					return damaged(b.Path(), fmt.Errorf("there is no bucket %s", name))
				}
			}
		}
		return nil
	})
}

// someID gives the index key of a reference, none for 0.
func someID(id int64) []string {
	if id == 0 {
		return nil
	}
	return []string{strconv.FormatInt(id, 10)}
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
