// Package peers decides about peers and their groups: who may join the tunnel,
// under which name, key and address, until when, and how much of the network is
// theirs. Of ours it imports model, store and control/events.
package peers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gatecontrol/model"
	"gatecontrol/store"
)

// MaxPeers bounds the peers of one server. The tables, the address search and
// the plan of the tunnel are measured at this size.
const MaxPeers = 10_000

// MaxPage is the most peers of one List.
const MaxPage = 250

// Options are what a Service needs.
type Options struct {
	DB  *store.DB
	Now func() time.Time
	Log *slog.Logger // for Run; nil is silent

	// Status tells what the tunnel knows of its live peers; nil knows of none.
	// The map is only read.
	Status func() map[model.PublicKey]model.PeerStatus

	Meter         Meter         // nil: nothing counts against a quota but what is stored
	QuotaInterval time.Duration // between two looks at what counts, 0 is DefaultQuotaInterval

	Tunnel Tunnel
	Zone   string // internal DNS domain; no peer gets a name in it that a route has
}

// Tunnel is what peers are told of the tunnel.
type Tunnel struct {
	Subnet     netip.Prefix // IPv4
	Subnet6    netip.Prefix // zero: there is no IPv6 in the tunnel
	Gateway    netip.Addr   // this server's tunnel address
	Endpoint   string       // host:port at which clients reach this server
	BaseURL    string       // where home gateways reach the API
	ServerKey  model.PublicKey
	DNS        []netip.Addr // resolvers of clients that have none of their own; empty is Gateway
	AllowedIPs string       // comma-separated prefixes for client configs
	Keepalive  uint16       // seconds, of new peers
	MTU        int          // 0 leaves the line out
}

// Service changes and reads peers. Its methods may be called from any goroutine;
// a change that returned nil is live.
type Service struct {
	o      Options
	host   string        // of the base URL, normalised
	wake   chan struct{} // tells Run that a deadline may have moved
	quotas quotas
}

// View is a peer and what is known of it.
type View struct {
	model.Peer
	Address6 netip.Addr // invalid: none
	Counters model.PeerCounters
	Status   *model.PeerStatus // nil: not in the tunnel
	Online   bool

	QuotaUsed     uint64    // bytes in this month, both ways together
	QuotaExceeded bool      // and that is known to be all of the quota
	QuotaResets   time.Time // when the month ends
}

// New returns a service. It panics on options that the caller should have
// checked: they end up in files that are read line by line.
func New(o Options) *Service {
	t := &o.Tunnel
	t.Subnet, t.Subnet6 = t.Subnet.Masked(), t.Subnet6.Masked()
	t.BaseURL = strings.TrimRight(t.BaseURL, "/")
	base, err := t.check()
	if err != nil {
		panic("peers: " + err.Error())
	}
	if len(t.DNS) == 0 {
		t.DNS = []netip.Addr{t.Gateway}
	}
	if o.Status == nil {
		o.Status = func() map[model.PublicKey]model.PeerStatus { return nil }
	}
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	if o.QuotaInterval <= 0 {
		o.QuotaInterval = DefaultQuotaInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	host, _ := model.NormalizeHost(base.Host)
	s := &Service{o: o, host: host, wake: make(chan struct{}, 1)}
	s.quotas.month = model.MonthOf(o.Now())
	return s
}

func (t *Tunnel) check() (base *url.URL, err error) {
	if !t.Subnet.IsValid() || !t.Subnet.Addr().Is4() || !t.Subnet.Contains(t.Gateway) {
		return nil, fmt.Errorf("%s is not an IPv4 subnet that holds the gateway address %s", t.Subnet, t.Gateway)
	}
	if t.ServerKey.IsZero() {
		return nil, fmt.Errorf("no server key")
	}
	host, port, err := net.SplitHostPort(t.Endpoint)
	if err != nil || host == "" || strings.ContainsFunc(host, notGraphic) {
		return nil, fmt.Errorf("the endpoint %q is not host:port", t.Endpoint)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("the endpoint %q has no port from 1 to 65535", t.Endpoint)
	}
	for part := range strings.SplitSeq(t.AllowedIPs, ",") {
		if _, err := netip.ParsePrefix(strings.Trim(part, " ")); err != nil {
			return nil, fmt.Errorf("allowed IPs %q: %w", t.AllowedIPs, err)
		}
	}
	if base, err = url.Parse(t.BaseURL); err != nil || base.Host == "" || strings.ContainsFunc(t.BaseURL, notGraphic) {
		return nil, fmt.Errorf("the base URL %q is not one", t.BaseURL)
	}
	return base, nil
}

// pair returns the IPv6 address of a peer, invalid if it has none.
func (t *Tunnel) pair(p *model.Peer) netip.Addr {
	return model.Subnets{V4: t.Subnet, V6: t.Subnet6}.Pair(p.Address())
}

// notGraphic is true for spaces and control characters.
func notGraphic(r rune) bool { return r <= ' ' || !unicode.IsGraphic(r) }

// List returns a page of the peers in the order in which they were created, and
// how many there are. A limit outside of 1 to MaxPage is MaxPage.
func (s *Service) List(ctx context.Context, limit, offset int) (page []View, total int, err error) {
	if limit < 1 || limit > MaxPage {
		limit = MaxPage
	}
	status, now := s.o.Status(), s.o.Now()
	err = s.o.DB.View(func(tx *store.Tx) error {
		list, n := store.Peers.Page(tx, limit, max(offset, 0))
		total, page = n, make([]View, 0, len(list))
		for _, p := range list {
			v, err := s.view(tx, p, status, now)
			if err != nil {
				return err
			}
			page = append(page, v)
		}
		return nil
	})
	return page, total, err
}

// Get returns one peer, or KindNotFound.
func (s *Service) Get(ctx context.Context, id model.PeerID) (v View, err error) {
	status := s.o.Status()
	err = s.o.DB.View(func(tx *store.Tx) error {
		p, err := load(tx, id)
		if err != nil {
			return err
		}
		v, err = s.view(tx, p, status, s.o.Now())
		return err
	})
	return v, err
}

func load(tx *store.Tx, id model.PeerID) (*model.Peer, error) {
	p, err := store.Peers.Get(tx, id)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, model.NotFound("peer")
	}
	return p, nil
}

func (s *Service) view(tx *store.Tx, p *model.Peer, status map[model.PublicKey]model.PeerStatus, now time.Time) (View, error) {
	v := View{Peer: *p, Address6: s.o.Tunnel.pair(p), Counters: model.PeerCounters{ID: p.ID}}
	c, err := store.Counters.Get(tx, p.ID)
	if err != nil {
		return v, err
	}
	if c != nil {
		v.Counters = *c
	}
	month := model.MonthOf(now)
	v.QuotaUsed = s.used(p.PublicKey, c, month)
	v.QuotaExceeded, v.QuotaResets = p.QuotaExceeded(now), month.End()
	if st, ok := status[p.PublicKey]; ok {
		v.Status, v.Online = &st, st.Online(now)
	}
	return v, nil
}

// update runs f in a write transaction and returns how the peer that f names
// looks afterwards.
func (s *Service) update(ctx context.Context, f func(*store.Tx, time.Time) (*model.Peer, error)) (v View, err error) {
	status, now := s.o.Status(), s.o.Now().UTC()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		p, err := f(tx, now)
		if err != nil {
			return err
		}
		v, err = s.view(tx, p, status, now)
		return err
	})
	s.poke()
	return v, err
}

// poke makes Run look at its deadlines again.
func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
