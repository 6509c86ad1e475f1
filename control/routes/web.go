package routes

import (
	"reflect"
	"slices"

	"gatecontrol/model"
	"gatecontrol/store"
)

// applyWeb puts the options that in holds into r, which has its other fields
// already. Each value is judged, whether its switch is on or not; what a switch
// needs, only if it is on, whichever of it was sent.
func (in *Input) applyWeb(tx *store.Tx, r *model.Route, bad *model.Invalids) error {
	w := r.Options()
	if r.Type == model.RouteL4 {
		in.refuseGates(&w, bad)
		r.Web = nil
		return nil
	}
	known, err := newRoster(tx, in)
	if err != nil {
		return err
	}
	in.Access.apply(&w, r, known, bad)
	in.Traffic.apply(&w, bad)
	in.Upstreams.apply(&w, r, known, bad)
	in.Appearance.apply(&w, r.Domain, bad)
	setOptions(r, w)
	return nil
}

// setOptions has r have w, which is not stored where it is the default.
func setOptions(r *model.Route, w model.Web) {
	if r.Web = &w; reflect.DeepEqual(w, model.DefaultWeb()) {
		r.Web = nil
	}
}

// gates are the switches that keep somebody out.
func gates(w *model.Web) map[string]bool {
	return map[string]bool{
		"external_enabled": !w.External, "acl_enabled": w.ACL.Enabled, "ip_filter_enabled": w.IPFilter.Enabled,
		"basic_auth_enabled": w.BasicAuth.Enabled, "rate_limit_enabled": w.RateLimit.Enabled,
		"bot_blocker_enabled": w.Bots.Enabled, "client_tls_enabled": w.ClientTLS.Enabled,
	}
}

// refuseGates refuses what a port route would not enforce. Its other options mean
// nothing there.
func (in *Input) refuseGates(w *model.Web, bad *model.Invalids) {
	set(&w.External, in.ExternalEnabled)
	set(&w.ACL.Enabled, in.ACLEnabled)
	set(&w.IPFilter.Enabled, in.IPFilterEnabled)
	set(&w.BasicAuth.Enabled, in.BasicAuthEnabled)
	set(&w.RateLimit.Enabled, in.RateLimitEnabled)
	set(&w.Bots.Enabled, in.BotBlockerEnabled)
	set(&w.ClientTLS.Enabled, in.ClientTLSEnabled)
	for field, on := range gates(w) {
		if on {
			bad.Add(field, "a port route does not have it yet")
		}
	}
}

// roster knows which of the peers that a request names exist.
type roster map[model.PeerID]bool

func newRoster(tx *store.Tx, in *Input) (roster, error) {
	known := make(roster)
	for _, id := range in.peers() {
		if _, looked := known[id]; looked {
			continue
		}
		p, err := store.Peers.Get(tx, id)
		if err != nil {
			return nil, err
		}
		known[id] = p != nil
	}
	return known, nil
}

// peers lists every peer that the options in in name.
func (in *Input) peers() (list []model.PeerID) {
	for _, n := range slices.Concat(in.ACLPeers.Value, in.ACLPeerIDs.Value) {
		list = append(list, model.PeerID(n))
	}
	for _, b := range in.Backends.Value {
		list = append(list, model.PeerID(b.Peer.Value))
	}
	for _, m := range in.MirrorTargets.Value {
		list = append(list, model.PeerID(m.Peer.Value))
	}
	for _, p := range in.Paths.Value {
		list = append(list, model.PeerID(p.Peer.Value))
	}
	return list
}

// portOf reads a port of one element of a list.
func portOf(f model.Field[int64]) (uint16, bool) {
	return uint16(f.Value), f.Value >= 1 && f.Value <= 65535
}

// number puts a value between low and high into p.
func number(p *int, f model.Field[int64], field string, low, high int64, bad *model.Invalids) {
	switch {
	case !f.Set || f.Null:
	case f.Value < low || f.Value > high:
		bad.Add(field, "must be %d to %d", low, high)
	default:
		*p = int(f.Value)
	}
}

// text puts a value into p, or nothing for null.
func text(p *string, f model.Field[string]) {
	if f.Set {
		*p = f.Value
	}
}
