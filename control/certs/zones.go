package certs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// ZoneInput is what a caller says of a zone. A setting that is absent stays as it
// is, as long as the provider stays.
type ZoneInput struct {
	Provider model.Field[string] `json:"provider" doc:"rfc2136, cloudflare, desec, hetzner or acme-dns"`
	Wildcard model.Field[bool]   `json:"wildcard" doc:"The names one label below the zone share one certificate"`

	Server       model.Field[string] `json:"server" doc:"rfc2136: host, with a port if that is not 53; acme-dns: its https:// address"`
	KeyName      model.Field[string] `json:"key_name" doc:"rfc2136: the name of the TSIG key"`
	KeyAlgorithm model.Field[string] `json:"key_algorithm" doc:"rfc2136: hmac-sha256 (the default), hmac-sha384, hmac-sha512 or hmac-sha224"`
	KeySecret    model.Field[string] `json:"key_secret" doc:"rfc2136: the key in base64; never given out"`
	APIToken     model.Field[string] `json:"api_token" doc:"cloudflare, hetzner: a token that may change the records of the zone; never given out"`
	Token        model.Field[string] `json:"token" doc:"desec: a token; never given out"`
	Subdomain    model.Field[string] `json:"subdomain" doc:"acme-dns: of the registration"`
	Username     model.Field[string] `json:"username" doc:"acme-dns: of the registration"`
	Password     model.Field[string] `json:"password" doc:"acme-dns: of the registration; never given out"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *ZoneInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *ZoneInput) settings() map[string]model.Field[string] {
	return map[string]model.Field[string]{
		"server": in.Server, "key_name": in.KeyName, "key_algorithm": in.KeyAlgorithm, "key_secret": in.KeySecret,
		"api_token": in.APIToken, "token": in.Token, "subdomain": in.Subdomain, "username": in.Username, "password": in.Password,
	}
}

// Zones lists the zones, without their secrets.
func (s *Service) Zones(context.Context) (list []model.DNSZone, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		for z, err := range store.DNSZones.All(tx) {
			if err == nil {
				z.Secrets = ""
				list = append(list, *z)
			}
		}
		return nil
	})
	return list, err
}

// SetZone makes or changes a zone. Its error is of KindInvalid and names the
// fields at fault.
func (s *Service) SetZone(ctx context.Context, zone string, in ZoneInput) (model.DNSZone, error) {
	name, err := model.ParseDomain(zone)
	if err != nil {
		return model.DNSZone{}, model.Invalid("zone", "must be a domain such as example.com")
	}
	now := s.o.Now().UTC()
	var z model.DNSZone
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		old, err := store.DNSZones.Get(tx, name)
		if err != nil {
			return err
		}
		values := make(map[string]string)
		z = model.DNSZone{Zone: name, UpdatedAt: now}
		if old == nil {
			if store.DNSZones.Len(tx) >= MaxZones {
				return model.Conflict("zone", "there are %d zones already, which is the most", MaxZones)
			}
		} else {
			z.Provider, z.Wildcard = old.Provider, old.Wildcard
			if in.Provider.Or(old.Provider) == old.Provider {
				was, err := s.openZone(old)
				if err == nil { // else all of it has to be given anew
					values = was.Settings
				}
			}
		}
		z.Provider, z.Wildcard = in.Provider.Or(z.Provider), in.Wildcard.Or(z.Wildcard)
		for key, f := range in.settings() {
			if f.Set {
				values[key] = f.Value
			}
		}
		if err := model.CheckDNSSettings(z.Provider, values); err != nil {
			return err
		}
		if z.Settings, z.Secrets, err = s.sealZone(z.Provider, values); err != nil {
			return err
		}
		if err := store.DNSZones.Put(tx, &z); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "dns_zone_updated", Message: fmt.Sprintf("the provider of the DNS zone %s was set to %s", name, z.Provider),
		})
	})
	if err != nil {
		return model.DNSZone{}, err
	}
	z.Secrets = ""
	return z, s.Load()
}

// DeleteZone removes a zone; certificates that were proven by it stay until their
// end.
func (s *Service) DeleteZone(ctx context.Context, zone string) error {
	name, err := model.ParseDomain(zone)
	if err != nil {
		return model.NotFound("zone")
	}
	now := s.o.Now().UTC()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		found, err := store.DNSZones.Delete(tx, name)
		if err != nil {
			return err
		}
		if !found {
			return model.NotFound("zone")
		}
		return events.Append(ctx, tx, now, events.Entry{Type: "dns_zone_deleted", Message: "the provider of the DNS zone " + name + " was deleted"})
	})
	if err != nil {
		return err
	}
	return s.Load()
}

// sealZone parts the settings into those that may be seen and the others.
func (s *Service) sealZone(provider string, values map[string]string) (map[string]string, model.Sealed, error) {
	open, secret := make(map[string]string), make(map[string]string)
	for _, d := range model.DNSSettings(provider) {
		if d.Secret {
			secret[d.Name] = values[d.Name]
		} else {
			open[d.Name] = values[d.Name]
		}
	}
	raw, err := json.Marshal(secret)
	if err != nil {
		return nil, "", err
	}
	return open, s.o.DB.Sealer().Seal(raw), nil
}

func (s *Service) openZone(z *model.DNSZone) (Zone, error) {
	raw, err := s.o.DB.Sealer().Open(z.Secrets)
	if err != nil {
		return Zone{}, fmt.Errorf("zone %s: %w", z.Zone, err)
	}
	settings := make(map[string]string)
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &settings); err != nil {
			return Zone{}, fmt.Errorf("zone %s: the secrets cannot be read", z.Zone)
		}
	}
	maps.Copy(settings, z.Settings)
	return Zone{z.Zone, z.Provider, settings, z.Wildcard}, nil
}
