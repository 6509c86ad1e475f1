package l4

import (
	"net/netip"
	"slices"

	"gatecontrol/model"
)

// maxPorts bounds the open ports of all routes together. Every port costs one
// goroutine and one file descriptor per bind, and 10 000 routes with a port
// each still fit.
const maxPorts = 16384

// fieldListenPort is what the API calls the ports of a route.
const fieldListenPort = "l4_listen_port"

// Config is what to forward. It is not written after Prepare.
type Config struct {
	Routes []Route
}

// Route forwards every port from First to Last, both included, to the one
// target: a range is many to one.
type Route struct {
	ID          model.RouteID
	Network     string // "tcp" or "udp"
	First, Last uint16 // 1-65535, First <= Last
	Target      netip.AddrPort
}

// PortConflict is the Detail of a conflict between two routes: both claim Port
// of the same protocol, and ConflictRouteID came first in the Config.
type PortConflict struct {
	Port            uint16
	ConflictRouteID model.RouteID
}

// Equal reports whether c and d ask for the same, in the same order.
func (c Config) Equal(d Config) bool { return slices.Equal(c.Routes, d.Routes) }

// portKey names one port: TCP and UDP count apart.
type portKey struct {
	network string
	port    uint16
}

// owner is what decides where a flow goes. A flow ends when the owner of its
// port changes, and only then.
type owner struct {
	route  model.RouteID
	target netip.AddrPort
}

// owners checks c and returns who owns each port.
func (c Config) owners() (map[portKey]owner, error) {
	m := make(map[portKey]owner, len(c.Routes))
	for _, r := range c.Routes {
		if err := r.check(); err != nil {
			return nil, err
		}
		for n := int(r.First); n <= int(r.Last); n++ {
			key := portKey{r.Network, uint16(n)}
			if other, taken := m[key]; taken {
				err := model.Conflict(fieldListenPort, "%s port %d is used by another route", r.Network, n)
				err.Detail = PortConflict{Port: uint16(n), ConflictRouteID: other.route}
				return nil, err
			}
			if len(m) == maxPorts {
				return nil, model.Conflict(fieldListenPort, "more than %d ports in all", maxPorts)
			}
			m[key] = owner{r.ID, r.Target}
		}
	}
	return m, nil
}

func (r Route) check() error {
	switch {
	case r.Network != "tcp" && r.Network != "udp":
		return model.Invalid("l4_protocol", "must be tcp or udp")
	case r.First == 0 || r.First > r.Last:
		return model.Invalid(fieldListenPort, "must be a port from 1 to 65535 or a range of them")
	case !r.Target.Addr().IsValid() || r.Target.Addr().IsUnspecified():
		return model.Invalid("target_ip", "must be an address")
	case r.Target.Port() == 0:
		return model.Invalid("target_port", "must be a port from 1 to 65535")
	}
	return nil
}
