package reconcile

import "gatecontrol/model"

// difference is what a transaction changed, as far as planes can tell.
type difference struct {
	scope
	routes      []model.RouteID // written or deleted
	gonePeers   []model.PeerID
	notGateways []model.PeerID // were home gateways, and are peers of another type now
	joined      []*peer        // have another group than before
	goneGroups  []model.GroupID
}

// scope names the shares of a plan that have to be compiled anew. It may name
// one too many, but never one too few.
type scope struct{ netstack, dns, l4, proxy, monitor bool }

var everything = scope{true, true, true, true, true}

// addPeer notes that a peer was what was is and becomes now; nil is absent. named
// tells whether options of a web route name it.
func (d *difference) addPeer(id model.PeerID, was, now *peer, named func(model.PeerID) bool) {
	d.netstack = true
	if (was == nil || now == nil || was.Enabled != now.Enabled) && named(id) {
		d.proxy, d.monitor = true, true
	}
	if now != nil && now.Group != 0 && (was == nil || was.Group != now.Group) {
		d.joined = append(d.joined, now)
	}
	switch {
	case now == nil:
		d.dns = true
		d.gonePeers = append(d.gonePeers, id)
	case was == nil:
		d.dns = true // a route to a new peer is new, too
	default:
		moved := was.Address() != now.Address()
		d.dns = d.dns || moved || was.Hostname != now.Hostname
		d.l4 = d.l4 || moved
		d.proxy = d.proxy || moved || was.Name != now.Name || was.ProxyPort() != now.ProxyPort()
		d.monitor = d.monitor || moved || was.ProxyPort() != now.ProxyPort()
		if was.Type == model.PeerGateway && now.Type != model.PeerGateway {
			d.notGateways = append(d.notGateways, id)
		}
	}
}

// addGroup is the same for a group. Only its switches matter to a plane.
func (d *difference) addGroup(id model.GroupID, was, now *model.Group) {
	d.netstack = d.netstack || was == nil || now == nil || was.Isolated != now.Isolated || was.NoExit != now.NoExit
	if now == nil {
		d.goneGroups = append(d.goneGroups, id)
	}
}

// addRoute is the same for a route.
func (d *difference) addRoute(id model.RouteID, was, now *model.Route) {
	d.routes = append(d.routes, id)
	for _, r := range []*model.Route{was, now} {
		if r == nil || !r.Enabled {
			continue
		}
		d.l4 = d.l4 || r.Type == model.RouteL4
		d.proxy = d.proxy || r.Type == model.RouteHTTP
		d.monitor = d.monitor || r.Monitored
	}
	d.dns = d.dns || publishes(was) != publishes(now)
}

// publishes returns the name that a route has resolved, if any.
func publishes(r *model.Route) string {
	if r == nil || !r.Enabled {
		return ""
	}
	return r.Domain
}
