package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"gatecontrol/api"
	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/proxy"
	"gatecontrol/store"
	"gatecontrol/telemetry"
)

// Bounds of the API's HTTP servers. The whole request is small (2 MiB at most),
// so a client that needs longer is not one that we want to wait for.
const (
	apiHeadTimeout = 10 * time.Second
	apiReadTimeout = 60 * time.Second
	apiIdleTimeout = 120 * time.Second
	apiHeadBytes   = 32 << 10

	// Connections of the plain admin port at once. It is for a person and a few
	// programs; the web ports, which strangers reach, have a limit of their own
	// that leaves file descriptors for this one.
	adminConns = 256

	// From the head of a request to the end of the answer, so also for a client
	// that does not read: the longest answer is a backup.
	apiWriteTimeout = 5 * time.Minute
)

// openTunnelPorts opens the web ports and those of the resolver on the tunnel
// address, before a stored port route could take them.
func (a *App) openTunnelPorts(context.Context) error {
	w := &a.web
	w.plain, w.secure = []net.Listener{proxy.Outside(w.http)}, []net.Listener{proxy.Outside(w.https)}
	for _, door := range []struct {
		list  *[]net.Listener
		ports []uint16
	}{
		// The usual ports work inside the tunnel whatever the host uses, and the
		// host's work too, so that one address is good on both sides.
		{&w.plain, []uint16{80, portOf(w.http)}},
		{&w.secure, []uint16{443, portOf(w.https)}},
	} {
		slices.Sort(door.ports)
		for _, port := range slices.Compact(door.ports) {
			ln, err := a.tunnel.Listen(port)
			if err != nil {
				return err
			}
			a.onStop("", ln.Close)
			*door.list = append(*door.list, ln)
		}
	}
	if a.options.HTTP3 {
		ports := []uint16{443, portOf(w.https)}
		slices.Sort(ports)
		for _, port := range slices.Compact(ports) {
			pc, err := a.tunnel.ListenPacket(port)
			if err != nil {
				return err
			}
			a.onStop("", pc.Close)
			w.packets = append(w.packets, pc)
		}
	}
	if a.resolver == nil {
		return nil
	}
	var err error
	if w.dnsPackets, err = a.tunnel.ListenPacket(53); err != nil {
		return err
	}
	a.onStop("", w.dnsPackets.Close)
	if w.dnsStreams, err = a.tunnel.Listen(53); err != nil {
		return err
	}
	a.onStop("", w.dnsStreams.Close)
	return nil
}

// serve starts everything that accepts or repeats.
func (a *App) serve(ctx context.Context) error {
	a.started = a.now()
	sources := []func() []telemetry.Condition{
		telemetry.StoreConditions(a.db), a.traffic.Conditions, a.reconciler.Conditions,
		telemetry.TunnelConditions(a.db, func() (model.Trouble, []model.PeerStatus) {
			t := a.tunnel.Status()
			return t.Trouble, t.Peers
		}),
		telemetry.CertificateConditions(a.issuance.Troubled, a.now),
	}
	if a.countries != nil {
		sources = append(sources, a.countryConditions)
	}
	if a.access != nil {
		sources = append(sources, a.access.Conditions)
	}
	a.conditions = telemetry.NewConditions(telemetry.ConditionsOptions{
		Log: a.log.With("part", "conditions"), Now: a.now, Interval: telemetry.DefaultConditionsInterval, Sources: sources,
	})
	var err error
	if a.api, err = api.New(a.apiOptions()); err != nil {
		return err
	}

	// What accepts ends before this, and the store after it.
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	a.onStop("", func() error { stopLoops(); a.loops.Wait(); return nil })
	for _, run := range []func(context.Context) error{
		a.activity.Run, a.accounts.Run, a.peers.Run, a.routes.Run, a.windows.Run, a.monitor.Run, a.reconciler.Run, a.traffic.Run, a.botCounts.Run, a.conditions.Run, a.issuance.Run,
	} {
		a.loop(func() error { return run(loopCtx) })
	}
	if a.options.BotRefresh {
		a.loop(func() error { return a.bots.Run(loopCtx) })
	}
	if a.countries != nil {
		a.loop(func() error { return a.countries.Run(loopCtx) })
	}
	if a.access != nil {
		a.loop(func() error { return a.access.Run(loopCtx) })
	}
	if a.resolver != nil {
		a.onStop("dns", a.resolver.Close)
		a.loop(func() error { return a.resolver.Serve(a.web.dnsPackets, a.web.dnsStreams) })
	}
	a.onStop("", a.demo.stop)
	// Requests to the API that came in through the proxy end with the proxy.
	pipe := a.serveHTTP(a.web.pipe, a.api.ProxyHandler())
	a.onStop("api", pipe.Close)

	a.onStop("", a.drain)
	a.doors = append(a.doors, a.proxy.Shutdown)
	for _, pc := range a.web.packets {
		a.loop(func() error { return a.proxy.ServePacket(pc) })
	}
	for _, ln := range a.web.plain {
		a.loop(func() error { return a.proxy.Serve(ln) })
	}
	for _, ln := range a.web.secure {
		a.loop(func() error { return a.proxy.ServeTLS(ln) })
	}
	a.openDoor(a.serveHTTP(netutil.LimitListener(a.web.admin, adminConns), a.api.Handler()))
	if a.web.local != nil {
		a.openDoor(a.serveHTTP(a.web.local, a.api.LocalHandler()))
	}
	return nil
}

// serveHTTP serves h on ln until the server that it returns is closed.
func (a *App) serveHTTP(ln net.Listener, h http.Handler) *http.Server {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: apiHeadTimeout, ReadTimeout: apiReadTimeout, WriteTimeout: apiWriteTimeout, IdleTimeout: apiIdleTimeout,
		MaxHeaderBytes: apiHeadBytes, ErrorLog: slog.NewLogLogger(a.log.With("part", "api").Handler(), slog.LevelWarn),
	}
	a.loop(func() error { return srv.Serve(ln) })
	return srv
}

// openDoor has srv drained at the end.
func (a *App) openDoor(srv *http.Server) {
	a.doors = append(a.doors, func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err != nil {
			_ = srv.Close()
		}
		return err
	})
}

// drain lets no new connection in anywhere, and gives the requests in flight at
// all doors together the time of grace.
func (a *App) drain() error {
	a.stopping.Store(true)
	a.forwarder.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), a.options.ShutdownTimeout.Duration())
	defer cancel()
	var open sync.WaitGroup
	for _, shut := range a.doors {
		open.Go(func() {
			if err := shut(ctx); err != nil {
				a.log.Warn("requests were cut at the end of the time of grace", "err", err)
			}
		})
	}
	open.Wait()
	return nil
}

// loop runs f until the end; an error of f other than that of a closed listener
// ends the process.
func (a *App) loop(f func() error) {
	a.loops.Go(func() {
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			select {
			case a.failed <- err:
			default:
			}
		}
	})
}

func (a *App) apiOptions() api.Options {
	s := a.options
	return api.Options{
		Log: a.log.With("part", "api"), Accounts: a.accounts, Peers: a.peers, Routes: a.routes, Windows: a.windows, Settings: a.settings, Backup: a.backup, Certs: a.certs, Events: a.activity,
		WG: func() api.WG {
			t := a.tunnel.Status()
			return api.WG{Running: t.Running, PublicKey: t.PublicKey, ListenPort: t.ListenPort, Peers: t.Peers}
		},
		Proxy: func() api.Proxy {
			p := api.Proxy{
				Running: a.serving(), Started: a.started,
				HTTPPort: portOf(a.web.http), HTTPSPort: portOf(a.web.https),
			}
			if plan := a.reconciler.Plan(); plan != nil {
				p.HTTPRoutes, p.L4Routes = len(plan.Proxy.Routes), len(plan.L4.Routes)
			}
			return p
		},
		Health: func() api.Health {
			return api.Health{DB: a.db.Healthy() == nil, WireGuard: a.tunnel.Running(), Proxy: a.serving()}
		},
		Traffic: func() api.Traffic {
			today, rate := a.traffic.Today()
			return api.Traffic{
				TodayUpload: today.UploadBytes, TodayDownload: today.DownloadBytes,
				UploadRate: rate.Upload, DownloadRate: rate.Download,
			}
		},
		Conditions: a.conditions.List,
		AccessLog:  a.accessEntries, Trace: a.proxy.Trace, Explain: a.proxy.Explain, Metrics: a.metrics,
		Reload: a.reload, DNS: api.DNS{Enabled: a.resolver != nil, Domain: s.DNSDomain, Gateway: s.WGGateway},
		BaseURL: s.baseURL, AllowedHosts: s.AllowedHosts, AdminUser: s.AdminUser, Version: a.version,
		LoginLimit: s.RateLimitLogin, APILimit: s.RateLimitAPI, Clients: a.clients(), Now: a.now,
	}
}

// serving reports whether everything was started and nothing is being stopped.
func (a *App) serving() bool {
	if a.stopping.Load() {
		return false
	}
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}

// reload applies what is stored anew.
func (a *App) reload(ctx context.Context) error {
	if err := a.reconciler.Apply(ctx); err != nil {
		return &model.Error{Kind: model.KindUnavailable, Message: "the stored routes cannot be applied", Err: err}
	}
	return a.db.Update(ctx, func(tx *store.Tx) error {
		return events.Append(ctx, tx, a.now(), events.Entry{Type: "caddy_reload", Message: "Proxy configuration reloaded"})
	})
}
