package peers

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// noPrivateKey stands in a config where the key never left its device.
const noPrivateKey = "<PRIVATE_KEY>"

// customDNS is the setting that replaces the resolvers of the tunnel.
const customDNS = "custom_dns"

// Config returns the name of a peer and the text of its WireGuard config. The
// text is the same, byte for byte, until something in it changes: clients
// compare its hash and reconnect on any difference.
func (s *Service) Config(ctx context.Context, id model.PeerID) (name, text string, err error) {
	var p *model.Peer
	var custom string
	err = s.o.DB.View(func(tx *store.Tx) error {
		if p, err = load(tx, id); err != nil {
			return err
		}
		set, err := store.Settings.Get(tx, customDNS)
		if err == nil && set != nil {
			custom = set.Value
		}
		return err
	})
	if err != nil {
		return "", "", err
	}
	private, err := s.o.DB.Sealer().OpenKey(p.PrivateKey)
	if err != nil {
		return "", "", fmt.Errorf("private key of peer %s: %w", p.ID, err)
	}
	preshared, err := s.o.DB.Sealer().OpenKey(p.PresharedKey)
	if err != nil {
		return "", "", fmt.Errorf("preshared key of peer %s: %w", p.ID, err)
	}
	return p.Name, s.configText(p, private, preshared, s.resolvers(p, custom)), nil
}

// resolvers are the peer's own, else those of the setting, else the tunnel's.
func (s *Service) resolvers(p *model.Peer, custom string) []netip.Addr {
	if len(p.DNS) > 0 {
		return p.DNS
	}
	if list, err := model.ParseDNSList(customDNS, custom); err == nil && len(list) > 0 {
		return list
	}
	return s.o.Tunnel.DNS
}

// configText writes what wg-quick and the clients read. Every value comes from a
// checked type or from New, so none can hold a line break.
func (s *Service) configText(p *model.Peer, private, preshared model.PrivateKey, dns []netip.Addr) string {
	t := &s.o.Tunnel
	key := noPrivateKey
	if !private.IsZero() {
		key = private.Base64()
	}
	resolvers := make([]string, len(dns))
	for i, a := range dns {
		resolvers[i] = a.String()
	}
	address := p.Address().String() + "/32"
	if pair := t.pair(p); pair.IsValid() {
		address += ", " + pair.String() + "/128"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\nAddress = %s\nDNS = %s\n", key, address, strings.Join(resolvers, ","))
	if t.MTU > 0 {
		fmt.Fprintf(&b, "MTU = %d\n", t.MTU)
	}
	fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\n", t.ServerKey)
	if !preshared.IsZero() {
		fmt.Fprintf(&b, "PresharedKey = %s\n", preshared.Base64())
	}
	fmt.Fprintf(&b, "Endpoint = %s\nAllowedIPs = %s\n", t.Endpoint, t.AllowedIPs)
	if p.Keepalive > 0 {
		fmt.Fprintf(&b, "PersistentKeepalive = %d\n", p.Keepalive)
	}
	return b.String()
}

// ConfigFile is the file name under which the config of a peer is offered.
func ConfigFile(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '_'
	}, name) + ".conf"
}
