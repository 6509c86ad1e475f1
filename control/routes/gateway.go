package routes

import (
	"fmt"

	"gatecontrol/model"
	"gatecontrol/store"
)

// Gateway leads a route through a home gateway.
type Gateway struct {
	TargetKind    model.Field[string] `json:"target_kind" doc:"peer or gateway"`
	TargetPeerID  model.Field[int64]  `json:"target_peer_id" doc:"The home gateway"`
	TargetLANHost model.Field[string] `json:"target_lan_host" doc:"Name or address in its network"`
	TargetLANPort model.Field[int64]  `json:"target_lan_port"`
}

// noGatewayText tells of a route whose home gateway was deleted, or was never
// given.
const noGatewayText = "the route has no home gateway to lead through; choose one"

// leads decides whether r leads through a home gateway. What is said of one is
// for that kind alone: beside peer it is a leftover of a form, and without any kind
// a mistake that would lead elsewhere.
func (in *Gateway) leads(r *model.Route, bad *model.Invalids) bool {
	switch in.TargetKind.Value {
	case model.TargetGateway:
		return true
	case model.TargetPeer:
		return false
	case "":
		if r.Target.Gateway == nil && in.TargetPeerID.Value != 0 {
			bad.Add("target_peer_id", "is for a target_kind of %s", model.TargetGateway)
		}
	default:
		bad.Add("target_kind", "must be %s or %s", model.TargetPeer, model.TargetGateway)
	}
	return r.Target.Gateway != nil
}

// apply makes the target of r one behind a home gateway. port is that of the
// target, which follows the one behind the gateway unless it is another.
func (in *Gateway) apply(r *model.Route, port model.Field[int64], bad *model.Invalids) {
	var g model.GatewayTarget
	was := r.Target.Gateway
	if was != nil {
		g = *was
	}
	if in.TargetPeerID.Set {
		g.Peer = model.PeerID(in.TargetPeerID.Value)
	}
	if in.TargetLANHost.Set || was == nil {
		host, err := model.ParseLANHost(in.TargetLANHost.Value)
		bad.AddError(err)
		g.Host = host
	}
	if in.TargetLANPort.Set || was == nil {
		p, ok := portOf(in.TargetLANPort)
		if !ok {
			bad.Add("target_lan_port", "must be 1 to 65535")
		}
		g.Port = p
	}
	t := model.Target{Port: r.Target.Port, Gateway: &g}
	switch p, ok := portOf(port); {
	case ok:
		t.Port = p
	case port.Set && !port.Null:
		bad.Add("target_port", "must be 1 to 65535")
	case was == nil || was.Port == t.Port:
		t.Port = g.Port
	}
	r.Target = t
}

// checkGateway notes what keeps r from leading through its home gateway. A disabled
// route may have lost it.
func (s *Service) checkGateway(tx *store.Tx, r *model.Route, retarget bool, bad *model.Invalids) error {
	g := r.Target.Gateway
	if r.Type == model.RouteL4 {
		bad.Add("target_kind", "a port route does not lead through a home gateway yet")
	}
	for i, p := range r.Options().Paths {
		if p.Peer == 0 && p.Redirect == "" {
			bad.Add(fmt.Sprintf("paths[%d]", i), "needs a peer_id: the home gateway leads a domain to one port")
		}
	}
	if g.Peer == 0 {
		if r.Enabled || retarget {
			bad.Add("target_peer_id", noGatewayText)
		}
		return nil
	}
	p, err := store.Peers.Get(tx, g.Peer)
	switch {
	case err != nil:
		return err
	case p == nil:
		bad.Add("target_peer_id", "there is no such peer")
	case p.Type != model.PeerGateway:
		bad.Add("target_peer_id", "the peer %q is no home gateway", p.Name)
	}
	return nil
}
