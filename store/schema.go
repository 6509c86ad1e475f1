package store

import (
	"strconv"
	"strings"

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
var Peers = Table[model.PeerID, model.Peer]{
	name: "peers", class: Intent,
	key: func(p *model.Peer) *model.PeerID { return &p.ID },
	indexes: []Index[model.Peer]{
		{Name: "name", Unique: true, Keys: func(p *model.Peer) []string { return []string{p.Name} }},
		{Name: "public_key", Unique: true, Keys: func(p *model.Peer) []string { return []string{p.PublicKey.String()} }},
		{Name: "address", Unique: true, Keys: func(p *model.Peer) []string { return []string{p.Address().String()} }},
		{Name: "hostname", Unique: true, Keys: func(p *model.Peer) []string { return some(p.Hostname) }},
	},
}

// Routes are keyed by number.
//
//	domain  unique among routes of type http
//	peer    routes whose target is that peer
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
		{Name: "peer", Keys: func(r *model.Route) []string {
			if r.Target.Peer == 0 {
				return nil
			}
			return []string{r.Target.Peer.String()}
		}},
	},
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

// Tokens are keyed by number; hash is unique.
var Tokens = Table[model.TokenID, model.Token]{
	name: "tokens", class: Runtime,
	key: func(t *model.Token) *model.TokenID { return &t.ID },
	indexes: []Index[model.Token]{
		{Name: "hash", Unique: true, Keys: func(t *model.Token) []string { return []string{t.Hash} }},
	},
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

// Counters are keyed by peer.
var Counters = Table[model.PeerID, model.PeerCounters]{
	name: "counters", class: Runtime,
	key: func(c *model.PeerCounters) *model.PeerID { return &c.ID },
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

// buckets of each file, as the newest schema has them.
func createIntent(tx *bbolt.Tx) error {
	return create(tx, &Peers, &Routes, &Users, &Sessions, &Tokens, &Settings, &Secrets, &Counters, &Outbox)
}

func createHistory(tx *bbolt.Tx) error { return create(tx, &Activity, &Traffic) }

func create(tx *bbolt.Tx, list ...interface{ create(*bbolt.Tx) error }) error {
	for _, c := range list {
		if err := c.create(tx); err != nil {
			return err
		}
	}
	return nil
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
