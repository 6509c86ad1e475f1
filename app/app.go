// Package app is the composition root as a library: it opens the store, wires
// the planes to the services, starts everything in order and stops it in
// reverse. The command and the whole-program tests start the same thing.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatecontrol/api"
	"gatecontrol/control/accounts"
	"gatecontrol/control/backup"
	"gatecontrol/control/certs"
	"gatecontrol/control/events"
	"gatecontrol/control/peers"
	"gatecontrol/control/reconcile"
	"gatecontrol/control/routes"
	"gatecontrol/control/settings"
	"gatecontrol/control/windows"
	"gatecontrol/dns"
	"gatecontrol/geoip"
	"gatecontrol/l4"
	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/proxy"
	proxycerts "gatecontrol/proxy/certs"
	"gatecontrol/proxy/dns01"
	"gatecontrol/store"
	"gatecontrol/telemetry"
)

// socketFile is the socket of the local commands, in the data directory.
const socketFile = "gatecontrol.sock"

// App is one gateway. It runs once.
type App struct {
	options *checked
	log     *slog.Logger
	version string
	now     func() time.Time
	ready   chan struct{}
	started time.Time
	room    *model.Room // for sockets of strangers and peers

	db         *store.DB
	subnets    model.Subnets
	tunnel     *netstack.Device
	resolver   *dns.Server // nil: off
	forwarder  *l4.Server
	proxy      *proxy.Server
	authority  *proxy.Authority
	issuance   *proxycerts.Manager
	resolving  *dns01.Resolver // asks the DNS as an authority does
	resetKey   [32]byte        // of QUIC
	stickyKey  []byte
	reconciler *reconcile.Reconciler
	traffic    *telemetry.Traffic
	botCounts  *telemetry.BotCounts
	monitor    *telemetry.Monitor
	conditions *telemetry.Conditions
	access     *telemetry.AccessLog // nil: off
	countries  *geoip.DB            // nil: none
	bots       *proxy.Bots
	activity   *events.Log
	accounts   *accounts.Service
	peers      *peers.Service
	routes     *routes.Service
	windows    *windows.Service
	settings   *settings.Service
	backup     *backup.Service
	certs      *certs.Service
	api        *api.Server

	web       listeners
	generated model.Secret // the administrator's password, if it was made up now

	demo     demoPeer
	stopping atomic.Bool
	doors    []func(context.Context) error // each lets requests in flight finish
	cleanup  []func()                      // run in reverse at the end
	loops    sync.WaitGroup
	failed   chan error
}

// listeners are the ports of this host.
type listeners struct {
	http, https, admin net.Listener
	local              net.Listener // nil where the path does not allow one
	pipe               *pipeListener

	plain, secure []net.Listener   // of host and tunnel
	packets       []net.PacketConn // likewise, for HTTP/3
	dnsPackets    net.PacketConn   // of the tunnel, nil without a resolver
	dnsStreams    net.Listener
}

// New checks the options; nothing is opened yet. An impossible setting is an
// error that names its variable.
func New(o Options, log *slog.Logger, version string) (*App, error) {
	s, err := o.check()
	if err != nil {
		return nil, err
	}
	return &App{
		options: s, log: log, version: version, now: time.Now,
		ready: make(chan struct{}), failed: make(chan error, 16), room: newRoom(),
	}, nil
}

// Ready is closed once everything serves.
func (a *App) Ready() <-chan struct{} { return a.ready }

// Run opens, starts and serves until ctx ends, then lets requests in flight
// finish. It returns nil after an orderly end.
func (a *App) Run(ctx context.Context) error {
	err := a.start(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // asked to stop before it had started
	} else if err == nil {
		a.log.Info("serving", "version", a.version,
			"http", a.web.http.Addr(), "https", a.web.https.Addr(), "admin", a.web.admin.Addr(),
			"wireguard", a.tunnel.Status().ListenPort)
		close(a.ready)
		select {
		case <-ctx.Done():
			a.log.Info("stopping", "grace", a.options.ShutdownTimeout.Duration())
		case err = <-a.failed:
			a.log.Error("a part failed; stopping", "err", err)
		}
	}
	for i := len(a.cleanup) - 1; i >= 0; i-- {
		a.cleanup[i]()
	}
	return err
}

// start brings the parts up in the order in which they need each other; what
// it adds to cleanup undoes that.
func (a *App) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		a.openStore, a.startTunnel, a.openPorts, a.buildPlanes, a.buildServices,
		a.openTunnelPorts, a.applyIntent, a.recallPeers, a.ensureAdmin, a.serve,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) openStore(context.Context) error {
	db, err := openStore(a.options, a.log)
	if err != nil {
		return err
	}
	a.db = db
	a.onStop("store", db.Close)
	return nil
}

func openStore(s *checked, log *slog.Logger) (*store.DB, error) {
	var sealer *store.Sealer
	var err error
	if s.EncryptionKey != "" {
		sealer, err = store.NewSealer(s.EncryptionKey)
	} else {
		sealer, err = store.LoadSealer(s.DataDir, log)
	}
	if err != nil {
		return nil, err
	}
	return store.Open(store.Options{Dir: s.DataDir, Sealer: sealer, Log: log.With("part", "store")})
}

func (a *App) startTunnel(ctx context.Context) error {
	s := a.options
	key, err := serverKey(ctx, a.db, s.wgKey)
	if err != nil {
		return fmt.Errorf("the key of this server: %w", err)
	}
	if a.stickyKey, err = stickyKey(key); err != nil {
		return err
	}
	if a.resetKey, err = resetKey(key); err != nil {
		return err
	}
	if a.authority, err = loadAuthority(ctx, a.db, s.DataDir, a.log); err != nil {
		return fmt.Errorf("the certificate authority of this server: %w", err)
	}
	if a.subnets, err = s.subnets(key.Public()); err != nil {
		return err
	}
	a.tunnel, err = netstack.New(netstack.Options{
		Log: a.log.With("part", "netstack"), PrivateKey: key, ListenPort: s.WGPort,
		Addr: s.WGGateway, Subnet: a.subnets.V4, Addr6: a.subnets.Pair(s.WGGateway), Subnet6: a.subnets.V6, MTU: s.WGMTU, PublicAddrs: s.publicAddrs(),
		Room: a.room, OnCut: func(lost func(netip.Addr) bool) { a.forwarder.Forget(lost) },
	})
	if err != nil {
		return err
	}
	a.onStop("netstack", a.tunnel.Close)
	if s.WGHost == placeholderHost {
		a.log.Warn("client configs will name a placeholder; set GC_WG_HOST to the name or address of this server", "host", placeholderHost)
	}
	return bySetting(a.tunnel.Start(), "GC_WG_PORT")
}

func (a *App) openPorts(context.Context) (err error) {
	s := a.options
	w := &a.web
	if w.http, err = listenWeb(a.log, "GC_HTTP_LISTEN", s.HTTPListen, ":80", fallbackHTTP); err != nil {
		return err
	}
	a.onStop("", w.http.Close)
	if w.https, err = listenWeb(a.log, "GC_HTTPS_LISTEN", s.HTTPSListen, ":443", fallbackHTTPS); err != nil {
		return err
	}
	a.onStop("", w.https.Close)
	if s.HTTP3 {
		if pc := listenHTTP3(a.log, w.https.Addr()); pc != nil {
			a.onStop("", pc.Close)
			w.packets = append(w.packets, proxy.OutsidePacket(pc))
		}
	}
	if w.admin, err = listen("GC_HOST and GC_PORT", net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port)))); err != nil {
		return err
	}
	a.onStop("", w.admin.Close)
	if w.local, err = listenLocal(filepath.Join(s.DataDir, socketFile)); err != nil {
		a.log.Warn("local commands will need the server to be stopped", "err", err)
	} else {
		a.onStop("", w.local.Close)
	}
	w.pipe = newPipeListener()
	a.onStop("", w.pipe.Close)
	return nil
}

func (a *App) buildPlanes(context.Context) (err error) {
	s := a.options
	dial := a.newDialer().dial
	a.buildMonitor(dial)
	if a.bots, err = proxy.NewBots(proxy.BotOptions{Log: a.log.With("part", "bots"), Ranges: s.BotRanges}); err != nil {
		return bySetting(err, "GC_BOT_BLOCKER_RANGES")
	}
	observe, err := a.newAccessLog()
	if err != nil {
		return err
	}
	if err = a.buildIssuance(); err != nil {
		return err
	}
	if a.proxy, err = proxy.New(proxy.Options{
		ResetKey: a.resetKey, StickyKey: a.stickyKey,
		Log: a.log.With("part", "proxy"), Dial: dial, DialAdmin: a.web.pipe.dial,
		Certificate: a.issuance.Certificate, Challenge: a.issuance.Challenge, ChallengeCertificate: a.issuance.ChallengeCertificate,
		Serving: a.issuance.Serve, HTTPSPort: portOf(a.web.https), Clients: a.clients(), Observe: observe, Country: a.openCountries(), Bots: a.bots,
		LastSeen: a.newSightings().lastSeen, Room: a.room,
	}); err != nil {
		return err
	}
	a.onStop("proxy", a.proxy.Close)
	if a.forwarder, err = l4.New(l4.Options{
		Log: a.log.With("part", "l4"), Dial: dial, Clients: a.clients(), Room: a.room, Binds: []l4.Bind{
			l4.HostBind(""),
			{Name: "tunnel", Listen: a.tunnel.Listen, ListenPacket: a.tunnel.ListenPacket},
		},
	}); err != nil {
		return err
	}
	a.onStop("l4", a.forwarder.Close)
	if s.DNSEnabled {
		if a.resolver, err = dns.New(dns.Options{
			Log: a.log.With("part", "dns"), Zone: s.DNSDomain, Upstreams: s.DNSUpstreams,
		}); err != nil {
			return bySetting(err, "GC_DNS_UPSTREAMS")
		}
		a.onStop("dns", a.resolver.Close)
	}
	return nil
}

func (a *App) applyIntent(ctx context.Context) error {
	s := a.options
	a.reconciler = reconcile.New(reconcile.Options{
		DB: a.db, Log: a.log.With("part", "reconcile"), Now: a.now,
		Facts: reconcile.Facts{
			Gateway: s.WGGateway, Subnets: a.subnets, AdminHosts: s.adminHosts, TrustedProxies: s.TrustedProxies,
			Exit: s.exit,
		},
		Netstack: a.tunnel, DNS: a.resolver, L4: a.forwarder, Proxy: a.proxy, Monitor: a.monitor,
	})
	return a.reconciler.Apply(ctx)
}

// recallTime is how old the last handshake may be of a peer that is greeted at
// the start. Who was there an hour ago may still be.
const recallTime = time.Hour

// recallPeers tells the tunnel where its peers were before the restart.
func (a *App) recallPeers(context.Context) error {
	memories, err := a.traffic.Memories(a.now().Add(-recallTime))
	if err != nil {
		a.log.Warn("where the peers were is not known; they will be heard when they speak", "err", err)
	}
	a.tunnel.Recall(memories)
	return nil
}

// bySetting names the setting that an error of a plane is about.
func bySetting(err error, setting string) error {
	if e, ok := errors.AsType[*model.Error](err); ok && e.Field != "" {
		named := *e
		named.Field = setting
		return &named
	}
	return err
}

// onStop adds something to undo. Its error is logged under name, unless that is
// empty.
func (a *App) onStop(name string, stop func() error) {
	a.cleanup = append(a.cleanup, func() {
		if err := stop(); err != nil && name != "" && !errors.Is(err, net.ErrClosed) {
			a.log.Warn("stopping a part", "part", name, "err", err)
		}
	})
}

// Greeting is what a person wants to know after the start. It holds the
// password if that was made up now, and is the only place that does.
func (a *App) Greeting() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nGateControl is up.\n\n  Administration  http://%s\n  User            %s\n", a.adminAddr(), a.options.AdminUser)
	if a.generated != "" {
		fmt.Fprintf(&b, "  Password        %s   (shown once; change it at the first login)\n", a.generated.Reveal())
	}
	fmt.Fprintf(&b, "  Web ports       %s and %s\n  WireGuard       UDP %d\n  Trust           %s\n\n",
		a.web.http.Addr(), a.web.https.Addr(), a.tunnel.Status().ListenPort, filepath.Join(a.options.DataDir, caFile))
	return b.String()
}

func (a *App) adminAddr() string {
	host, port, err := net.SplitHostPort(a.web.admin.Addr().String())
	if err != nil {
		return a.web.admin.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// Addrs are where an App listens on this host.
type Addrs struct {
	HTTP, HTTPS, Admin string // host:port
	WireGuard          uint16 // UDP port
}

// Addrs returns the open ports. It must be called after Ready.
func (a *App) Addrs() Addrs {
	return Addrs{
		HTTP: a.web.http.Addr().String(), HTTPS: a.web.https.Addr().String(), Admin: a.web.admin.Addr().String(),
		WireGuard: a.tunnel.Status().ListenPort,
	}
}
