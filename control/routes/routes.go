// Package routes decides about published services: which domain or port leads to
// which peer or address. Of ours it imports model, store and control/events.
package routes

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// MaxRoutes bounds the routes of one server.
const MaxRoutes = 10_000

// MaxPage is the most routes of one List.
const MaxPage = 250

// Options are what a Service needs.
type Options struct {
	DB  *store.DB
	Log *slog.Logger // nil: nothing is logged
	Now func() time.Time

	// Status tells what the tunnel knows of its live peers; nil knows of none.
	// The map is only read.
	Status func() map[model.PublicKey]model.PeerStatus
	// Skipped tells which routes could not be applied, and why; nil is none. The
	// map is only read.
	Skipped func() map[model.RouteID]error
	// BotCounts tells how many requests the bot blocker of each route refused that
	// the store does not know of yet; nil is none. The map is only read.
	BotCounts func() map[model.RouteID]uint64
	// HostAddrs tells the addresses of this host; nil knows of loopback alone. A
	// direct target on one of them must not be a blocked port.
	HostAddrs func() []netip.Addr
	// LookUp returns the addresses of IPv4 that resolvers outside of this network
	// give for a name; nil knows none.
	LookUp func(ctx context.Context, name string) ([]netip.Addr, error)
	// KnownAs are names and addresses by which this server is known outside, the
	// one that counts first.
	KnownAs []string
	// Probe tells how a route would be checked now, and whether there is such a route.
	// In a write transaction it does so for what that found. Nil knows of none.
	Probe func(model.RouteID) (model.Probe, bool)
	// Check makes one check; BeginCheck and EndChecks are told of it.
	Check func(context.Context, model.Probe) (model.Checked, error)

	Blocked    []uint16     // ports that no port route listens on, our own among them
	MaxRange   int          // most ports of one port route; 0 is 100
	AdminHost  string       // host name of the administration
	ZoneDomain string       // internal DNS domain, normalised; empty without one
	Tunnel     netip.Prefix // tunnel subnet: reached through peers alone
}

// Service changes and reads routes. Its methods may be called from any
// goroutine; a change that returned nil is live.
type Service struct {
	o       Options
	blocked map[uint16]bool
	hasher  hasher
	unsaved unsaved
	looking atomic.Int32 // how many look at the DNS
}

// View is a route and what is known of it.
type View struct {
	model.Route
	Peer    *model.Peer       // the linked peer; nil for a direct target
	Status  *model.PeerStatus // of that peer; nil: not in the tunnel
	Online  bool              // that peer
	Gateway *model.Peer       // the home gateway before the target; nil: there is none
	Error   string            // why the route does not serve; empty if it does or is disabled

	BotsBlocked uint64           // requests that its bot blocker refused
	Check       model.RouteCheck // what checks have found
}

// defaultMaxRange is the most ports of one route where nothing is configured:
// each is a listener of its own.
const defaultMaxRange = 100

// New returns a service.
func New(o Options) *Service {
	if o.Status == nil {
		o.Status = func() map[model.PublicKey]model.PeerStatus { return nil }
	}
	if o.Skipped == nil {
		o.Skipped = func() map[model.RouteID]error { return nil }
	}
	if o.BotCounts == nil {
		o.BotCounts = func() map[model.RouteID]uint64 { return nil }
	}
	if o.HostAddrs == nil {
		o.HostAddrs = func() []netip.Addr { return nil }
	}
	if o.Probe == nil {
		o.Probe = func(model.RouteID) (model.Probe, bool) { return model.Probe{}, false }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxRange <= 0 {
		o.MaxRange = defaultMaxRange
	}
	o.AdminHost, _ = model.NormalizeHost(o.AdminHost)
	s := &Service{o: o, blocked: make(map[uint16]bool, len(o.Blocked)), hasher: newHasher()}
	for _, p := range o.Blocked {
		s.blocked[p] = true
	}
	return s
}

// List returns a page of the routes of type typ, or of all for "", in the order
// of type and domain, and how many there are. A limit outside of 1 to MaxPage is
// MaxPage.
func (s *Service) List(ctx context.Context, typ string, limit, offset int) (page []View, total int, err error) {
	if limit < 1 || limit > MaxPage {
		limit = MaxPage
	}
	offset = max(offset, 0)
	facts := s.facts()
	err = s.o.DB.View(func(tx *store.Tx) error {
		from := ""
		if typ != "" {
			from = typ + "/"
		}
		var ids []model.RouteID
		for key, id := range store.Routes.Entries(tx, "order", from) {
			if !strings.HasPrefix(key, from) {
				break
			}
			if total >= offset && len(ids) < limit {
				ids = append(ids, id)
			}
			total++
		}
		page = make([]View, 0, len(ids))
		for _, id := range ids {
			r, err := load(tx, id)
			if err != nil {
				return err
			}
			v, err := facts.view(tx, r)
			if err != nil {
				return err
			}
			page = append(page, v)
		}
		return nil
	})
	return page, total, err
}

// Get returns one route, or KindNotFound.
func (s *Service) Get(ctx context.Context, id model.RouteID) (v View, err error) {
	facts := s.facts()
	err = s.o.DB.View(func(tx *store.Tx) error {
		r, err := load(tx, id)
		if err != nil {
			return err
		}
		v, err = facts.view(tx, r)
		return err
	})
	return v, err
}

func load(tx *store.Tx, id model.RouteID) (*model.Route, error) {
	r, err := store.Routes.Get(tx, id)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, model.NotFound("route")
	}
	return r, nil
}

// facts are what views show besides the store, as it was at one moment.
type facts struct {
	s       *Service
	now     time.Time
	status  map[model.PublicKey]model.PeerStatus
	skipped map[model.RouteID]error
	bots    map[model.RouteID]uint64
}

func (s *Service) facts() *facts {
	return &facts{s: s, now: s.o.Now().UTC(), status: s.o.Status(), skipped: s.o.Skipped(), bots: s.o.BotCounts()}
}

func (f *facts) view(tx *store.Tx, r *model.Route) (View, error) {
	v := View{Route: *r, BotsBlocked: f.bots[r.ID]}
	if c, err := store.RouteCounters.Get(tx, r.ID); err != nil {
		return v, err
	} else if c != nil {
		v.BotsBlocked += c.BotsBlocked
	}
	var err error
	if v.Check, err = f.s.found(tx, r.ID); err != nil {
		return v, err
	}
	if err := f.skipped[r.ID]; err != nil && r.Enabled {
		v.Error = err.Error()
	} else if f.s.orphan(r) {
		v.Error = orphanText
	}
	if g := r.Target.Gateway; g != nil {
		if g.Peer == 0 {
			v.Error = noGatewayText
			return v, nil
		}
		var err error
		v.Gateway, err = store.Peers.Get(tx, g.Peer)
		return v, err
	}
	if r.Target.Peer == 0 {
		return v, nil
	}
	p, err := store.Peers.Get(tx, r.Target.Peer)
	if err != nil || p == nil {
		return v, err
	}
	v.Peer = p
	if st, ok := f.status[p.PublicKey]; ok {
		v.Status, v.Online = &st, st.Online(f.now)
	}
	return v, nil
}

// PeerChoice is a peer as a target of routes.
type PeerChoice struct {
	ID        model.PeerID
	Name      string
	Addr      netip.Addr // tunnel address
	Enabled   bool
	Online    bool
	Type      model.PeerType
	Group     model.GroupID // 0: none
	GroupName string
	Hostname  string
}

// Peers returns the peers of type typ, or all for "", that a route can lead to.
func (s *Service) Peers(ctx context.Context, typ string) (list []PeerChoice, err error) {
	f := s.facts()
	list = []PeerChoice{}
	err = s.o.DB.View(func(tx *store.Tx) error {
		groups := make(map[model.GroupID]string)
		for name, id := range store.Groups.Entries(tx, "name", "") {
			groups[id] = name
		}
		for p, err := range store.Peers.All(tx) {
			if err != nil || typ != "" && string(p.Type) != typ {
				continue // one that cannot be read is no choice
			}
			st, ok := f.status[p.PublicKey]
			list = append(list, PeerChoice{
				ID: p.ID, Name: p.Name, Addr: p.Address(), Enabled: p.Enabled,
				Online: ok && st.Online(f.now), Type: p.Type, Group: p.Group, GroupName: groups[p.Group], Hostname: p.Hostname,
			})
		}
		return nil
	})
	return list, err
}
