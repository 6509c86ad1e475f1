package app

import (
	"context"
	"net/netip"

	"gatecontrol/control/accounts"
	"gatecontrol/control/backup"
	"gatecontrol/control/events"
	"gatecontrol/control/peers"
	"gatecontrol/control/routes"
	"gatecontrol/control/settings"
	"gatecontrol/control/windows"
	"gatecontrol/model"
	"gatecontrol/proxy/dns01"
	"gatecontrol/telemetry"
)

func (a *App) buildServices(context.Context) (err error) {
	s := a.options
	tunnel := a.tunnel.Status()
	a.activity = events.NewLog(a.db, a.log.With("part", "activity"))
	if a.accounts, err = accounts.New(accounts.Options{
		DB: a.db, Log: a.log.With("part", "accounts"), Now: a.now, SessionMaxAge: s.SessionMaxAge.Duration(),
	}); err != nil {
		return err
	}
	a.settings = settings.New(settings.Options{DB: a.db, Now: a.now, Exit: s.exit})
	a.backup = backup.New(backup.Options{DB: a.db, Now: a.now})
	a.traffic = telemetry.NewTraffic(telemetry.TrafficOptions{
		DB: a.db, Log: a.log.With("part", "traffic"), Now: a.now, Interval: s.TrafficInterval.Duration(),
		Status: func() []model.PeerStatus { return a.tunnel.Status().Peers },
	})
	a.peers = peers.New(peers.Options{
		DB: a.db, Log: a.log.With("part", "peers"), Now: a.now, Status: a.peerStatus, Meter: a.traffic, Zone: s.DNSDomain,
		Tunnel: peers.Tunnel{
			Subnet: a.subnets.V4, Subnet6: a.subnets.V6, Gateway: s.WGGateway, Endpoint: s.endpoint(tunnel.ListenPort), BaseURL: s.BaseURL,
			ServerKey: tunnel.PublicKey, DNS: s.dns, AllowedIPs: s.clientNetworks(a.subnets.V6), Keepalive: s.WGKeepalive, MTU: s.WGMTU,
		},
	})
	a.windows = windows.New(windows.Options{DB: a.db, Log: a.log.With("part", "windows"), Now: a.now, Count: a.traffic.Read})
	a.botCounts = telemetry.NewBotCounts(telemetry.BotCountsOptions{
		DB: a.db, Log: a.log.With("part", "bots"), Interval: s.TrafficInterval.Duration(), Counts: a.proxy.BotCounts,
		Counted: a.proxy.BotsCounted,
	})
	a.routes = routes.New(routes.Options{
		DB: a.db, Log: a.log.With("part", "routes"), Now: a.now, Status: a.peerStatus, BotCounts: a.botCounts.Unsaved,
		HostAddrs: func() []netip.Addr { return append(hostAddrs(), s.publicAddrs()...) },
		Probe:     func(id model.RouteID) (model.Probe, bool) { return a.reconciler.Probe(id) }, Check: a.monitor.Check,
		Skipped: func() map[model.RouteID]error { return a.reconciler.Skipped() },
		Blocked: s.blockedPorts(a.ownPorts()...), MaxRange: s.L4MaxPortRange,
		LookUp: a.lookUpOutside(), KnownAs: s.knownAs(),
		AdminHost: s.adminHosts[0], ZoneDomain: s.DNSDomain, Tunnel: s.WGSubnet,
	})
	return a.buildCertService()
}

// lookUpOutside returns what asks the resolvers outside; nil if there are none.
func (a *App) lookUpOutside() func(context.Context, string) ([]netip.Addr, error) {
	if len(a.options.resolvers) == 0 {
		return nil
	}
	return (&dns01.Resolver{Servers: a.options.resolvers, AtOnce: true}).Addrs4
}

// ensureAdmin makes the administrator at the first start. It comes late: the
// password is printed once everything serves, and would be lost if a step after
// this one failed.
func (a *App) ensureAdmin(ctx context.Context) (err error) {
	a.generated, err = a.accounts.EnsureAdmin(ctx, a.options.AdminUser, a.options.AdminPassword.Reveal())
	return err
}

// peerStatus is the live tunnel by public key.
func (a *App) peerStatus() map[model.PublicKey]model.PeerStatus {
	list := a.tunnel.Status().Peers
	m := make(map[model.PublicKey]model.PeerStatus, len(list))
	for _, p := range list {
		m[p.PublicKey] = p
	}
	return m
}

// clients tells peers apart where addresses of IPv6 are counted.
func (a *App) clients() model.Clients { return model.Clients{Tunnel: a.subnets.V6} }

// ownPorts are the TCP and UDP ports of this host that this process serves.
func (a *App) ownPorts() []uint16 {
	ports := []uint16{portOf(a.web.http), portOf(a.web.https), portOf(a.web.admin), a.tunnel.Status().ListenPort}
	return ports
}
