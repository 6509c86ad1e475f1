package backup

import (
	"cmp"
	"iter"
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// fill reads every section. A record that cannot be read fails the backup: one
// that silently lacks something is found out when it is too late.
func (d *Data) fill(tx *store.Tx) error {
	n := &names{peers: make(map[model.PeerID]string), users: make(map[model.UserID]string)}
	if err := each(store.Users.All(tx), func(u *model.User) error {
		n.users[u.ID] = u.Username
		d.Users = append(d.Users, user(u))
		return nil
	}); err != nil {
		return err
	}
	groups := make(map[model.GroupID]string)
	if err := each(store.Groups.All(tx), func(g *model.Group) error {
		groups[g.ID] = g.Name
		d.PeerGroups = append(d.PeerGroups, group(g))
		return nil
	}); err != nil {
		return err
	}
	if err := each(store.Peers.All(tx), func(p *model.Peer) error {
		n.peers[p.ID] = p.Name
		c, err := store.Counters.Get(tx, p.ID)
		if err != nil {
			return err
		}
		d.Peers = append(d.Peers, peer(p, c, groups[p.Group], n.users[p.User]))
		if p.Gateway != nil {
			d.GatewayMeta = append(d.GatewayMeta, gateway(p))
		}
		return nil
	}); err != nil {
		return err
	}
	if err := each(store.Routes.All(tx), func(r *model.Route) error {
		c, err := store.RouteCounters.Get(tx, r.ID)
		if err != nil {
			return err
		}
		out := route(r, n)
		if c != nil {
			out.BotBlockerCount = c.BotsBlocked
		}
		found, err := store.RouteChecks.Get(tx, r.ID)
		if err != nil {
			return err
		}
		if found != nil {
			out.setCheck(found)
		}
		d.Routes = append(d.Routes, out)
		return nil
	}); err != nil {
		return err
	}
	if err := each(store.Tokens.All(tx), func(t *model.Token) error {
		d.APITokens = append(d.APITokens, token(t, n.peers[t.Peer], n.users[t.User]))
		return nil
	}); err != nil {
		return err
	}
	if err := each(store.Settings.All(tx), func(s *store.Setting) error {
		d.Settings = append(d.Settings, Setting{s.Key, s.Value})
		return nil
	}); err != nil {
		return err
	}
	return d.fillCertificates(tx)
}

func each[V any](seq iter.Seq2[*V, error], f func(*V) error) error {
	for v, err := range seq {
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

func group(g *model.Group) Group {
	return Group{
		Name: g.Name, Color: g.Color, Description: orNull(g.Description), CreatedAt: datetime(g.CreatedAt),
		Isolated: bit(g.Isolated), NoExit: bit(g.NoExit),
	}
}

func peer(p *model.Peer, c *model.PeerCounters, group, owner string) Peer {
	prefixes := make([]string, len(p.AllowedIPs))
	for i, a := range p.AllowedIPs {
		prefixes[i] = a.String()
	}
	dns := make([]string, len(p.DNS))
	for i, a := range p.DNS {
		dns[i] = a.String()
	}
	out := Peer{
		Name: p.Name, Description: p.Description, PublicKey: p.PublicKey.String(),
		PrivateKeyEncrypted: orNull(p.PrivateKey), PresharedKeyEncrypted: orNull(p.PresharedKey),
		AllowedIPs: strings.Join(prefixes, ", "), DNS: orNull(strings.Join(dns, ",")),
		PersistentKeepalive: p.Keepalive, Enabled: bit(p.Enabled), Tags: p.Tags,
		ExpiresAt: isoOrNull(p.ExpiresAt), Hostname: orNull(p.Hostname),
		HostnameSource:     orNull(string(p.HostnameSource)),
		HostnameReportedAt: datetimeOrNull(p.HostnameReportedAt),
		PeerType:           p.Type, CreatedAt: datetime(p.CreatedAt), UpdatedAt: datetime(p.UpdatedAt),
		GroupName: orNull(group), UserName: orNull(owner), RateLimitUp: p.RateLimitUp, RateLimitDown: p.RateLimitDown,
		QuotaBytes: p.QuotaBytes, QuotaAction: cmp.Or(p.QuotaAction, model.QuotaBlock),
		Isolated: bit(p.Isolated), NoExit: bit(p.NoExit), Trusted: bit(p.Trusted), AccessRules: model.ListText(p.Windows.List),
	}
	if c != nil {
		out.TotalRx, out.TotalTx = c.TotalRx, c.TotalTx
		if !c.LastHandshake.IsZero() {
			out.LatestHandshake = c.LastHandshake.Unix()
		}
	}
	return out
}

func gateway(p *model.Peer) Gateway {
	return Gateway{
		PeerName: p.Name, APIPort: p.Gateway.APIPort, ProxyPort: p.Gateway.ProxyPort,
		APITokenHash: p.Gateway.APITokenHash, PushTokenEncrypted: p.Gateway.PushToken,
		CreatedAt: p.CreatedAt.UnixMilli(),
	}
}

func route(r *model.Route, n *names) Route {
	out := Route{TargetKind: r.Target.Kind()}
	out.setOptions(r, n)
	out.Domain, out.Description = orNull(r.Domain), r.Description
	out.TargetIP, out.TargetPort = r.Target.ShownAddr().String(), r.Target.Port
	if g := r.Target.Gateway; g != nil {
		out.TargetPeerName, out.TargetLANHost, out.TargetLANPort = orNull(n.peers[g.Peer]), &g.Host, &g.Port
	}
	out.HTTPSEnabled, out.BackendHTTPS = bit(r.ForceHTTPS), bit(r.BackendHTTPS)
	out.Enabled, out.RouteType, out.MonitoringEnabled = bit(r.Enabled), r.Type, bit(r.Monitored)
	out.AccessRules = model.ListText(r.Windows.List)
	if r.L4 != nil {
		ports := r.L4.Ports.String()
		out.L4Protocol, out.L4ListenPort, out.L4TLSMode = &r.L4.Network, &ports, &r.L4.TLS
	}
	out.CreatedAt, out.UpdatedAt = datetime(r.CreatedAt), datetime(r.UpdatedAt)
	out.PeerName = orNull(n.peers[r.Target.Peer])
	return out
}

// setCheck fills in what the last check has found.
func (out *Route) setCheck(c *model.RouteCheck) {
	if c.Status == "" {
		return
	}
	took := c.Took.Milliseconds()
	out.MonitoringStatus, out.MonitoringResponseTime = &c.Status, &took
	out.MonitoringLastCheck, out.MonitoringLastChange = isoOrNull(&c.At), isoOrNull(c.ChangedAt)
}

func user(u *model.User) User {
	return User{
		Username: u.Username, DisplayName: u.DisplayName, Email: orNull(u.Email),
		PasswordHash: u.PasswordHash, Role: u.Role, Language: u.Language, Theme: u.Theme,
		Enabled: bit(u.Enabled), MustChange: bit(u.MustChange),
		LastLoginAt: datetimeOrNull(u.LastLoginAt),
		CreatedAt:   datetime(u.CreatedAt), UpdatedAt: datetime(u.UpdatedAt),
	}
}

func token(t *model.Token, peerName, userName string) Token {
	return Token{
		Name: t.Name, TokenHash: t.Hash, Scopes: jsonText(t.Scopes),
		CreatedAt: datetime(t.CreatedAt), ExpiresAt: isoOrNull(t.ExpiresAt), LastUsedAt: datetimeOrNull(t.LastUsedAt),
		PeerName: orNull(peerName), UserName: orNull(userName),
	}
}

// orNull is s, or null for the empty text.
func orNull[T ~string](s T) *T {
	if s == "" {
		return nil
	}
	return &s
}
