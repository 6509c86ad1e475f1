package peers

import (
	"context"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// maxHostnameVariant is the last number that is put behind a name in use.
const maxHostnameVariant = 99

// SetHostname gives a peer an administrator's name in the internal zone, or
// takes its name away where hostname is null or empty. A name in use gets a
// number behind it; assigned is what it became. An unchanged name still becomes
// the administrator's, which agents cannot replace.
func (s *Service) SetHostname(ctx context.Context, id model.PeerID, hostname model.Field[string]) (v View, assigned string, changed bool, err error) {
	if !hostname.Set {
		return v, "", false, model.Invalid("hostname", "is required")
	}
	host := hostname.Value
	if host != "" {
		if host, err = model.ParseHostname(host); err != nil {
			return v, "", false, err
		}
	}
	v, err = s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Peer, error) {
		p, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		previous := p.Hostname
		p.Hostname, p.HostnameSource, p.HostnameReportedAt = "", model.HostnameNone, nil
		if host != "" {
			if p.Hostname, err = s.freeHostname(tx, id, host); err != nil {
				return nil, err
			}
			p.HostnameSource, p.HostnameReportedAt = model.HostnameAdmin, &now
		}
		assigned, changed, p.UpdatedAt = p.Hostname, p.Hostname != previous, now
		if err := put(store.Peers.Put(tx, p)); err != nil || !changed {
			return p, err
		}
		return p, events.Append(ctx, tx, now, events.Entry{
			Type: "peer_hostname_changed", Message: "the host name of peer " + p.Name + " was changed",
			Details: map[string]any{
				"peerId": id, "previous": orNull(previous), "assigned": orNull(assigned), "source": string(model.HostnameAdmin),
			},
		})
	})
	return v, assigned, changed, err
}

// freeHostname returns base or its first variant that nobody but the peer id
// has: no other peer, and in the internal zone no route and not the administration.
func (s *Service) freeHostname(tx *store.Tx, id model.PeerID, base string) (string, error) {
	name := base
	for n := 2; ; n++ {
		other, err := store.Peers.Find(tx, "hostname", name)
		if err != nil {
			return "", err
		}
		free := other == nil || other.ID == id
		if full := name + "." + s.o.Zone; free && s.o.Zone != "" {
			for _, typ := range []model.RouteType{model.RouteHTTP, model.RouteL4} {
				held, err := store.Routes.FindAll(tx, "order", string(typ)+"/"+full)
				if err != nil {
					return "", err
				}
				free = free && len(held) == 0
			}
			free = free && full != s.host
		}
		if free {
			return name, nil
		}
		if n > maxHostnameVariant {
			return "", model.Conflict("hostname", "%q and its numbered variants are all in use", base)
		}
		name = model.HostnameVariant(base, n)
	}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
