package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"gatecontrol/control/peers"
	"gatecontrol/control/routes"
	"gatecontrol/demo"
	"gatecontrol/model"
)

// What the demo is called. Names below .localhost lead to this host without any
// resolver (RFC 6761 section 6.3).
const (
	demoPeer   = "demo"
	demoDomain = "demo.localhost"
	demoPort   = 8080
)

// StartDemo joins a second WireGuard device to this server with an ordinary
// client config, serves a page on it, publishes that as a route and returns the
// text that tells how to fetch it. Peer and route stay from one start to the
// next. It must be called after Ready.
func (a *App) StartDemo(ctx context.Context) (string, error) {
	id, err := a.demoPeer(ctx)
	if err != nil {
		return "", err
	}
	_, config, err := a.peers.Config(ctx, id)
	if err != nil {
		return "", err
	}
	p, err := demo.Join(ctx, config)
	if err != nil {
		return "", err
	}
	a.loops.Go(func() { // ends with ctx, like everything else that serves
		<-ctx.Done()
		p.Close()
	})
	ln, err := p.Listen(demoPort)
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: demo.Page(p), ReadHeaderTimeout: 10 * time.Second}
	a.loops.Go(func() {
		if err := srv.Serve(ln); ctx.Err() == nil {
			a.log.Warn("the demo page ended", "err", err)
		}
	})
	if err := a.demoRoute(ctx, id); err != nil {
		return "", err
	}
	url := "https://" + demoDomain
	if port := portOf(a.web.https); port != 443 {
		url = fmt.Sprintf("%s:%d", url, port)
	}
	return fmt.Sprintf("A demo peer has joined at %s and serves a page. Fetch it through the tunnel:\n\n  curl --cacert %s %s/\n\n",
		p.Addr, filepath.Join(a.settings.DataDir, caFile), url), nil
}

func (a *App) demoPeer(ctx context.Context) (model.PeerID, error) {
	created, err := a.peers.Create(ctx, peers.Input{
		Name: model.Value(demoPeer), Hostname: model.Value(demoPeer),
		Description: model.Value("Started by --demo; delete it when you have seen enough"),
	})
	if err == nil {
		return created.ID, nil
	}
	if e, ok := errors.AsType[*model.Error](err); !ok || e.Field != "name" {
		return 0, err
	}
	list, _, err := a.peers.List(ctx, 250, 0)
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if p.Name == demoPeer {
			return p.ID, nil
		}
	}
	return 0, fmt.Errorf("the name %q is taken by a peer that cannot be found", demoPeer)
}

func (a *App) demoRoute(ctx context.Context, peer model.PeerID) error {
	_, err := a.routes.Create(ctx, routes.Input{
		Domain: model.Value(demoDomain), PeerID: model.Value(int64(peer)), TargetPort: model.Value(int64(demoPort)),
		Description: model.Value("Started by --demo"),
	})
	if e, ok := errors.AsType[*model.Error](err); ok && e.Field == "domain" {
		return nil // from an earlier start
	}
	return err
}
