package routes

import (
	"encoding/json"
	"net/netip"
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// Input is what a caller asks for. Create takes everything but Enabled; Update
// leaves alone what is absent. Null clears what can be empty and leaves alone
// what cannot.
type Input struct {
	Domain       model.Field[string] `json:"domain"`
	RouteType    model.Field[string] `json:"route_type"`
	Enabled      model.Field[bool]   `json:"enabled"`
	Description  model.Field[string] `json:"description"`
	PeerID       model.Field[int64]  `json:"peer_id"`
	TargetIP     model.Field[string] `json:"target_ip"`
	TargetPort   model.Field[int64]  `json:"target_port"`
	HTTPSEnabled model.Field[bool]   `json:"https_enabled"`
	BackendHTTPS model.Field[bool]   `json:"backend_https"`
	L4Protocol   model.Field[string] `json:"l4_protocol"`
	L4ListenPort model.Field[string] `json:"l4_listen_port"`

	MonitoringEnabled model.Field[bool] `json:"monitoring_enabled" doc:"The service is checked time and again; one of UDP cannot be"`

	Gateway
	Access
	Traffic
	Upstreams
	Appearance

	// all are all members of the request. Some ask for what this server does not
	// do; see absent.
	all members
}

// members are those of a JSON object.
type members = map[string]json.RawMessage

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *Input) UnmarshalJSON(b []byte) error {
	if err := model.DecodeObject(b, in); err != nil {
		return err
	}
	var err error
	in.all, err = model.Members(b)
	return err
}

// defaultTarget is where a route leads that names neither peer nor address.
var defaultTarget = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// apply puts what in holds into r and notes every field at fault. A route that is
// being created has no ID yet.
func (in *Input) apply(tx *store.Tx, r *model.Route, bad *model.Invalids) error {
	switch t := model.RouteType(in.RouteType.Value); t {
	case "":
	case model.RouteHTTP, model.RouteL4:
		r.Type = t
	default:
		bad.Add("route_type", "must be http or l4")
	}
	in.applyDomain(r, bad)
	if in.Description.Set {
		text, err := model.ParseDescription(in.Description.Value)
		bad.AddError(err)
		r.Description = &text
		if in.Description.Null {
			r.Description = nil
		}
	}
	if err := in.applyTarget(tx, r, bad); err != nil {
		return err
	}
	set(&r.ForceHTTPS, in.HTTPSEnabled)
	set(&r.BackendHTTPS, in.BackendHTTPS)
	set(&r.Monitored, in.MonitoringEnabled)
	in.applyL4(r, bad)
	checkAbsent(in.all, r, bad)
	return in.applyWeb(tx, r, bad)
}

func set(p *bool, f model.Field[bool]) { *p = f.Or(*p) }

func (in *Input) applyDomain(r *model.Route, bad *model.Invalids) {
	if in.Domain.Set {
		r.Domain = strings.TrimSpace(in.Domain.Value)
	}
	if r.Domain == "" {
		if r.Type == model.RouteHTTP {
			bad.Add("domain", "is required")
		}
		return
	}
	d, err := model.ParseDomain(r.Domain)
	bad.AddError(err)
	r.Domain = d
}

func (in *Input) applyTarget(tx *store.Tx, r *model.Route, bad *model.Invalids) error {
	if in.Gateway.leads(r, bad) {
		in.Gateway.apply(r, in.TargetPort, bad)
		return nil
	}
	if r.Target.Gateway != nil {
		r.Target = model.Target{Port: r.Target.Port}
		if in.PeerID.Value == 0 && in.TargetIP.Value == "" {
			bad.Add("peer_id", "is required: nothing else says where the route leads now")
		}
	}
	was := r.Target
	if in.PeerID.Set {
		r.Target.Peer = model.PeerID(in.PeerID.Value)
	}
	switch {
	case r.Target.Peer != 0:
		p, err := store.Peers.Get(tx, r.Target.Peer)
		if err != nil {
			return err
		}
		switch {
		case p == nil:
			bad.Add("peer_id", "there is no such peer")
		case !p.Enabled && r.ID != 0 && p.ID != was.Peer:
			bad.Add("peer_id", "the peer %q is disabled", p.Name)
		default:
			r.Target.Addr = p.Address()
		}
	case in.TargetIP.Value != "" && !(was.Addr.IsValid() && strings.TrimSpace(in.TargetIP.Value) == was.Addr.String()):
		a, err := model.ParseTargetIP(in.TargetIP.Value)
		bad.AddError(err)
		r.Target.Addr = a
	case !r.Target.Addr.IsValid():
		r.Target.Addr = defaultTarget
	}
	switch {
	case !in.TargetPort.Set && r.ID != 0:
	case in.TargetPort.Value < 1 || in.TargetPort.Value > 65535:
		bad.Add("target_port", "must be 1 to 65535")
	default:
		r.Target.Port = uint16(in.TargetPort.Value)
	}
	return nil
}

// retargets reports whether in says where r leads.
func (in *Input) retargets(r *model.Route) bool {
	if r.Target.Gateway != nil {
		return in.TargetKind.Set || in.TargetPeerID.Set
	}
	return in.PeerID.Set || in.TargetIP.Set
}

func (in *Input) applyL4(r *model.Route, bad *model.Invalids) {
	if r.Type != model.RouteL4 {
		r.L4 = nil
		return
	}
	if r.L4 == nil {
		r.L4 = &model.L4{TLS: model.TLSNone}
	}
	if in.L4Protocol.Set {
		r.L4.Network = in.L4Protocol.Value
	}
	if r.L4.Network != "tcp" && r.L4.Network != "udp" {
		bad.Add("l4_protocol", "must be tcp or udp")
	}
	if in.L4ListenPort.Set || r.L4.Ports.First == 0 {
		ports, err := model.ParsePortRange("l4_listen_port", in.L4ListenPort.Value)
		bad.AddError(err)
		r.L4.Ports = ports
	}
}
