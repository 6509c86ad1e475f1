package peers

import (
	"context"
	"net/netip"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Created is a new peer with what is told only once.
type Created struct {
	View
	PrivateKey   model.PrivateKey // zero: the device keeps its own
	PresharedKey model.PrivateKey // zero: none, or the device brought it
	Gateway      *GatewayEnv      // only for a home gateway
}

// keys are those of a peer to be, sealed and, where they were made here, open.
type keys struct {
	public                        model.PublicKey
	private, preshared            model.PrivateKey
	sealedPrivate, sealedPreshard model.Sealed
}

// Create adds a peer under the lowest free address. Kinds: KindInvalid with every
// field at fault; KindConflict for a key that is known already and where no
// address or place is left.
func (s *Service) Create(ctx context.Context, in Input) (Created, error) {
	// What takes time is done before the one writer is held up.
	var bad model.Invalids
	if !in.Name.Set {
		bad.Add("name", "is required")
	}
	k := s.keys(&in, &bad)
	p := model.Peer{
		Type: model.PeerRegular, Enabled: true, Keepalive: s.o.Tunnel.Keepalive,
		PublicKey: k.public, PrivateKey: k.sealedPrivate, PresharedKey: k.sealedPreshard,
	}
	api, proxy := in.gatewayPorts(&bad)
	var env *GatewayEnv
	if in.IsGateway.Value {
		p.Type = model.PeerGateway
		env, p.Gateway = s.gatewayTokens(api, proxy)
	}
	var host string
	if in.Hostname.Value != "" {
		var err error
		host, err = model.ParseHostname(in.Hostname.Value)
		bad.AddError(err)
	}

	v, err := s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Peer, error) {
		if err := in.apply(tx, &p, &s.o.Tunnel, &bad); err != nil {
			return nil, err
		}
		if err := bad.Err(); err != nil {
			return nil, err
		}
		p.CreatedAt, p.UpdatedAt = now, now
		return &p, s.insert(ctx, tx, &p, host)
	})
	if err != nil {
		return Created{}, err
	}
	if p.QuotaBytes != 0 {
		s.quotaWritten()
	}
	if env != nil {
		env.EnvContent = s.envContent(&v.Peer, env, k.private, k.preshared)
	}
	c := Created{View: v, PrivateKey: k.private, Gateway: env}
	if !in.PresharedKey.Set {
		c.PresharedKey = k.preshared
	}
	return c, nil
}

// insert gives p its address and name and stores it, as part of tx.
func (s *Service) insert(ctx context.Context, tx *store.Tx, p *model.Peer, host string) error {
	if p.PublicKey == s.o.Tunnel.ServerKey {
		return model.Conflict("public_key", "this is the key of the server itself")
	}
	addr, err := s.allocate(tx)
	if err != nil {
		return err
	}
	p.AllowedIPs = []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}
	if host != "" {
		if p.Hostname, err = s.freeHostname(tx, p.ID, host); err != nil {
			return err
		}
		p.HostnameSource, p.HostnameReportedAt = model.HostnameAdmin, &p.CreatedAt
	}
	if err := put(store.Peers.Insert(tx, p)); err != nil {
		return err
	}
	return events.Append(ctx, tx, p.CreatedAt, events.Entry{
		Type: "peer_created", Message: "peer " + p.Name + " was created", Severity: model.SeveritySuccess,
		Details: map[string]any{"peerId": p.ID, "ip": addr.String(), "publicKey": p.PublicKey.String()[:8]},
	})
}

// keys makes the keys of a new peer, or takes those that its device brought.
func (s *Service) keys(in *Input, bad *model.Invalids) (k keys) {
	own := in.PublicKey.Value != ""
	if own {
		var err error
		if k.public, err = model.ParsePublicKey(in.PublicKey.Value); err != nil {
			bad.Add("public_key", "%s", err)
		}
		if in.IsGateway.Value {
			bad.Add("public_key", "a home gateway gets its keys with its file from here")
		}
	} else {
		k.private = model.NewPrivateKey()
		k.public = k.private.Public()
	}
	switch {
	case in.PresharedKey.Value != "":
		var err error
		if k.preshared, err = model.ParsePrivateKey(in.PresharedKey.Value); err != nil {
			bad.Add("preshared_key", "%s", err)
		}
	case !own:
		k.preshared = model.NewPresharedKey()
	}
	sealer := s.o.DB.Sealer()
	k.sealedPrivate, k.sealedPreshard = sealer.SealKey(k.private), sealer.SealKey(k.preshared)
	return k
}
