package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"gatecontrol/control/peers"
	"gatecontrol/control/routes"
	"gatecontrol/demo"
	"gatecontrol/model"
)

// What the demo is called. Names below .localhost lead to this host without any
// resolver (RFC 6761 section 6.3).
const (
	demoName   = "demo"
	demoDomain = "demo.localhost"
	demoPort   = 8080
)

// demoPeer is the second device, while it is there.
type demoPeer struct {
	mu      sync.Mutex
	peer    *demo.Peer
	page    *http.Server
	served  sync.WaitGroup
	stopped bool
}

// serve serves the page on p until stop, and takes p over in any case.
func (d *demoPeer) serve(p *demo.Peer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ln, err := p.Listen(demoPort)
	if err == nil && (d.stopped || d.peer != nil) {
		err = net.ErrClosed
	}
	if err != nil {
		p.Close()
		return err
	}
	d.peer, d.page = p, &http.Server{Handler: demo.Page(p), ReadHeaderTimeout: 10 * time.Second}
	d.served.Go(func() { _ = d.page.Serve(ln) })
	return nil
}

// stop ends it for good. It comes after the requests in flight have ended, some
// of which may be for the page.
func (d *demoPeer) stop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.peer != nil {
		_ = d.page.Close()
		d.peer.Close()
		d.peer = nil
	}
	d.served.Wait()
	return nil
}

// StartDemo joins a second WireGuard device to this server with an ordinary
// client config, serves a page on it, publishes that as a route and returns the
// text that tells how to fetch it. Peer and route stay from one start to the
// next. It must be called after Ready.
func (a *App) StartDemo(ctx context.Context) (string, error) {
	id, err := a.ensureDemoPeer(ctx)
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
	if err := a.demo.serve(p); err != nil {
		return "", err
	}
	if err := a.demoRoute(ctx, id); err != nil {
		return "", err
	}
	url := "https://" + demoDomain
	if port := portOf(a.web.https); port != 443 {
		url = fmt.Sprintf("%s:%d", url, port)
	}
	return fmt.Sprintf("A demo peer has joined at %s and serves a page. Fetch it through the tunnel:\n\n  curl --cacert %s %s/\n\n",
		p.Addr, filepath.Join(a.options.DataDir, caFile), url), nil
}

func (a *App) ensureDemoPeer(ctx context.Context) (model.PeerID, error) {
	created, err := a.peers.Create(ctx, peers.Input{
		Name: model.Value(demoName), Hostname: model.Value(demoName),
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
		if p.Name == demoName {
			return p.ID, nil
		}
	}
	return 0, fmt.Errorf("the name %q is taken by a peer that cannot be found", demoName)
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
