package telemetry

import (
	"gatecontrol/model"
	"gatecontrol/store"
)

// StoreConditions is a source: whether the store takes writes.
func StoreConditions(db *store.DB) func() []Condition {
	return func() []Condition {
		err := db.Healthy()
		if err == nil {
			return nil
		}
		return []Condition{{
			Code: "store_failed", Severity: model.SeverityError,
			Text: "No change is taken any more: " + Plain(err) + ". What is configured goes on working.",
		}}
	}
}

// Conditions is a source: whether what peers moved can be stored.
func (t *Traffic) Conditions() []Condition {
	t.mu.Lock()
	err := t.failed
	t.mu.Unlock()
	if err == nil || t.DB.Healthy() != nil { // which is told already
		return nil
	}
	return []Condition{{
		Code: "traffic_not_stored", Severity: model.SeverityWarning,
		Text: "What peers move is counted in memory only, and lost with a restart: " + Plain(err) + ".",
	}}
}

// TunnelConditions returns a source: what is in the way of the tunnel as a whole
// and of its peers, as status tells it. Names of peers are looked up in db.
func TunnelConditions(db *store.DB, status func() (model.Trouble, []model.PeerStatus)) func() []Condition {
	s := &tunnelSource{db: db, status: status}
	return s.look
}

// tunnelSource is for one look at a time.
type tunnelSource struct {
	db     *store.DB
	status func() (model.Trouble, []model.PeerStatus)

	// known are the peers that were in trouble at the last look, so that each is
	// looked up once in some looks, however many lose their network at a time.
	known map[model.PublicKey]named
	looks int
}

// nameLooks is how many looks a name is good for: a peer may get another one.
const nameLooks = 12

// named is a peer as people know it. ID is 0 if it is not in the store.
type named struct {
	id   model.PeerID
	name string
}

func (s *tunnelSource) look() []Condition {
	whole, peers := s.status()
	if s.looks++; s.looks%nameLooks == 0 {
		s.known = nil
	}
	var list []Condition
	if whole.Code != "" {
		list = append(list, Condition{Code: string(whole.Code), Severity: model.SeverityError, Text: advice(whole), Since: whole.Since})
	}
	troubled := make(map[model.PublicKey]named)
	for i := range peers {
		p := &peers[i]
		if p.Trouble.Code == "" {
			continue
		}
		who, found := s.known[p.PublicKey]
		if !found {
			who = s.find(p.PublicKey)
		}
		if who.id != 0 { // or else it is looked up again
			troubled[p.PublicKey] = who
		}
		list = append(list, Condition{
			Code: string(p.Trouble.Code), Subject: who.name, Peer: who.id, Severity: model.SeverityWarning,
			Text: advice(p.Trouble), Since: p.Trouble.Since,
		})
	}
	s.known = troubled
	return list
}

// find looks a peer up. One that the store does not give is named by its key.
func (s *tunnelSource) find(key model.PublicKey) named {
	n := named{name: key.String()}
	_ = s.db.View(func(tx *store.Tx) error {
		p, err := store.Peers.Find(tx, "public_key", key.String())
		if err == nil && p != nil {
			n = named{p.ID, p.Name}
		}
		return err
	})
	return n
}

// advice says what is in the way, and what to do.
func advice(t model.Trouble) string {
	switch t.Code {
	case model.TroublePort:
		return "The UDP port of the tunnel is closed, so that no peer is reached: " + t.Detail + ". It is opened again as soon as the system allows it."
	case model.TroubleUnsent:
		return "This server cannot send to the peer: " + t.Detail + ". Look at the network, the routes and the firewall of this server."
	case model.TroubleForged:
		return "What comes as the peer's answer is not authentic. Its preshared key is probably another than the one stored here: " +
			"give the device its current configuration. Or else something on the way changes or forges messages."
	case model.TroubleClock:
		return "The handshakes of the peer are refused, since they carry an earlier time than those before. Its clock is probably behind: " +
			"set it. If it is right, and was ahead before, disable the peer here and enable it again. Or else somebody repeats what it has once sent."
	case model.TroubleUnconfirmed:
		return "The peer begins handshakes and does not end them. Its preshared key is probably another than the one stored here: " +
			"give the device its current configuration. Or else the answers of this server do not reach it: look for a firewall in between."
	}
	return ""
}
