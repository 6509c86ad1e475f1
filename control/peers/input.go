package peers

import (
	"errors"

	"gatecontrol/model"
	"gatecontrol/store"
)

// Input is what a caller asks for. Create needs Name and takes everything but
// Enabled; Update takes Name to Enabled, leaves alone what is absent,
// and passes over the rest, so that a peer can be sent back as it was read.
type Input struct {
	Name        model.Field[string] `json:"name"`
	Description model.Field[string] `json:"description"`
	Tags        model.Field[string] `json:"tags" join:", "`
	ExpiresAt   model.Field[string] `json:"expires_at"`
	DNS         model.Field[string] `json:"dns"`
	Keepalive   model.Field[int64]  `json:"persistentKeepalive" alias:"persistent_keepalive"`
	GroupID     model.Field[int64]  `json:"group_id"`
	UserID      model.Field[int64]  `json:"user_id"`

	RateLimitUp   model.Field[int64]  `json:"rate_limit_up" doc:"Bits per second that the peer may send, 64000 to 100000000000; 0 or null is no limit"`
	RateLimitDown model.Field[int64]  `json:"rate_limit_down" doc:"Bits per second that the peer may receive, 64000 to 100000000000; 0 or null is no limit"`
	QuotaBytes    model.Field[int64]  `json:"quota_bytes" doc:"Bytes per calendar month (UTC), both directions together; 0 or null is no quota"`
	QuotaAction   model.Field[string] `json:"quota_action" doc:"block or notify; null is block"`
	Isolated      model.Field[bool]   `json:"isolated"`
	NoExit        model.Field[bool]   `json:"no_exit"`
	Trusted       model.Field[bool]   `json:"trusted"`

	Enabled model.Field[bool] `json:"enabled"`

	Hostname     model.Field[string] `json:"hostname"`
	PublicKey    model.Field[string] `json:"public_key"`    // the device keeps its private key
	PresharedKey model.Field[string] `json:"preshared_key"` // its own, too
	IsGateway    model.Field[bool]   `json:"is_gateway"`
	APIPort      model.Field[int64]  `json:"api_port"`
	ProxyPort    model.Field[int64]  `json:"proxy_port"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *Input) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// Ports of a home gateway where none are given, as its agent has them.
const (
	defaultAPIPort   = 9876
	defaultProxyPort = model.DefaultProxyPort
)

// minGatewayPort is the lowest port that a gateway's agent accepts; it runs
// without rights and exits on a lower one.
const minGatewayPort = 1024

// apply puts into p what create and update have in common and notes every field
// at fault.
func (in *Input) apply(tx *store.Tx, p *model.Peer, def *Tunnel, bad *model.Invalids) error {
	if in.Name.Set {
		name, err := model.ParsePeerName(in.Name.Value)
		bad.AddError(err)
		p.Name = name
		if other, err := store.Peers.Find(tx, "name", name); err != nil {
			return err
		} else if other != nil && other.ID != p.ID {
			bad.Add("name", "another peer has the name %q", name)
		}
	}
	if in.Description.Set && (p.ID != 0 || !in.Description.Null) {
		text, err := model.ParseDescription(in.Description.Value)
		bad.AddError(err)
		p.Description = &text
	}
	if in.Tags.Set {
		tags, err := model.ParseTags(in.Tags.Value)
		bad.AddError(err)
		p.Tags = tags
	}
	if in.ExpiresAt.Set {
		p.ExpiresAt = nil
		if in.ExpiresAt.Value != "" {
			t, err := model.ParseExpiry("expires_at", in.ExpiresAt.Value)
			bad.AddError(err)
			p.ExpiresAt = &t
		}
	}
	if in.DNS.Set {
		list, err := model.ParseDNSList("dns", in.DNS.Value)
		bad.AddError(err)
		p.DNS = list
	}
	if in.Keepalive.Set {
		n := in.Keepalive.Or(int64(def.Keepalive))
		if n < 0 || n > 65535 {
			bad.Add("persistentKeepalive", "must be 0 to 65535 seconds")
		}
		p.Keepalive = uint16(n)
	}
	if in.GroupID.Set {
		p.Group = model.GroupID(in.GroupID.Value)
		if p.Group != 0 {
			if g, err := store.Groups.Get(tx, p.Group); err != nil {
				return err
			} else if g == nil {
				bad.Add("group_id", "there is no such group")
			}
		}
	}
	if in.UserID.Set {
		p.User = model.UserID(in.UserID.Value)
		if p.User != 0 {
			if u, err := store.Users.Get(tx, p.User); err != nil {
				return err
			} else if u == nil {
				bad.Add("user_id", "there is no such user")
			}
		}
	}
	in.applyLimits(p, bad)
	return nil
}

// applyLimits is the part of apply about how much the peer may move, and whereto.
func (in *Input) applyLimits(p *model.Peer, bad *model.Invalids) {
	for _, limit := range []struct {
		name string
		in   model.Field[int64]
		to   *uint64
	}{{"rate_limit_up", in.RateLimitUp, &p.RateLimitUp}, {"rate_limit_down", in.RateLimitDown, &p.RateLimitDown}} {
		if limit.in.Set {
			n, err := model.ParseRateLimit(limit.name, limit.in.Value)
			bad.AddError(err)
			*limit.to = n
		}
	}
	if in.QuotaBytes.Set {
		n, err := model.ParseQuota(in.QuotaBytes.Value)
		bad.AddError(err)
		p.QuotaBytes = n
	}
	if in.QuotaAction.Set {
		action, err := model.ParseQuotaAction(in.QuotaAction.Value)
		bad.AddError(err)
		p.QuotaAction = action
	}
	for _, flag := range []struct {
		in model.Field[bool]
		to *bool
	}{{in.Isolated, &p.Isolated}, {in.NoExit, &p.NoExit}, {in.Trusted, &p.Trusted}} {
		if flag.in.Set {
			*flag.to = flag.in.Value
		}
	}
}

// gatewayPorts reads the ports of a new gateway. They are checked for a plain
// peer, too, so that a slip of is_gateway does not go unseen.
func (in *Input) gatewayPorts(bad *model.Invalids) (api, proxy uint16) {
	read := func(field string, f model.Field[int64], def int64) uint16 {
		n := f.Or(def)
		if n < minGatewayPort || n > 65535 {
			bad.Add(field, "must be %d to 65535", minGatewayPort)
		}
		return uint16(n)
	}
	api = read("api_port", in.APIPort, defaultAPIPort)
	proxy = read("proxy_port", in.ProxyPort, defaultProxyPort)
	if api == proxy {
		bad.Add("proxy_port", "must differ from api_port")
	}
	return api, proxy
}

// put stores p. A name that was taken meanwhile is told as such.
func put(err error) error {
	dup, ok := errors.AsType[*store.DuplicateError](err)
	if !ok {
		return err
	}
	switch dup.Index {
	case "name":
		return model.Invalid("name", "another peer has the name %q", dup.Key)
	case "public_key":
		return model.Conflict("public_key", "another peer has this key")
	case "hostname":
		return model.Conflict("hostname", "another peer has the host name %q", dup.Key)
	}
	return model.Conflict("", "another peer has the address %s", dup.Key)
}
