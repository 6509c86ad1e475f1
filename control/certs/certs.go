// Package certs decides about certificates: those that an administrator brings,
// the zones of DNS whose records prove names, and what to tell of all of them. Of
// ours it imports model, store and control/events.
package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// MaxCertificates and MaxZones bound what is kept: handshakes look through the
// first, and nobody has more of either.
const (
	MaxCertificates = 1000
	MaxZones        = 1000
)

// Options are what a Service needs. Without the functions of the Manager and of
// the DNS it can do all but what they are for.
type Options struct {
	DB  *store.DB
	Log *slog.Logger
	Now func() time.Time

	AdminHosts []string // names of the administration, normalised
	// Root is the certificate of the internal authority, in PEM.
	Root []byte

	// Apply hands over everything that is stored, at the start and after each
	// change. It must not wait.
	Apply func([]Upload, []Zone)
	// Status tells of the certificates of the names that are served.
	Status func() []model.CertStatus
	// Renew has a certificate renewed now, and does not wait for it.
	Renew func(name string) error

	Look Look // for the pre-flight
}

// Upload is a certificate that was brought, unsealed.
type Upload struct {
	Names []string
	Cert  *tls.Certificate
}

// Zone is a stored zone with its settings, the secret ones among them.
type Zone struct {
	Zone, Provider string
	Settings       map[string]string
	Wildcard       bool
}

// Service knows certificates. Its methods may be called from any goroutine.
type Service struct {
	o  Options
	mu sync.Mutex // from reading the store to Apply, so that the newest wins
}

// New returns a service.
func New(o Options) *Service { return &Service{o: o} }

// Root returns the certificate of the internal authority, in PEM.
func (s *Service) Root() []byte { return s.o.Root }

// Load hands over what is stored. A record that cannot be read is left out, which
// is logged: the name has another certificate then.
func (s *Service) Load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uploads []Upload
	var zones []Zone
	err := s.o.DB.View(func(tx *store.Tx) error {
		for c, err := range store.Certificates.All(tx) {
			var u Upload
			if err == nil {
				u, err = s.open(c)
			}
			if err != nil {
				s.o.Log.Error("a stored certificate cannot be read and is left out", "err", err)
				continue
			}
			uploads = append(uploads, u)
		}
		for z, err := range store.DNSZones.All(tx) {
			var zone Zone
			if err == nil {
				zone, err = s.openZone(z)
			}
			if err != nil {
				s.o.Log.Error("a stored DNS zone cannot be read and is left out", "err", err)
				continue
			}
			zones = append(zones, zone)
		}
		return nil
	})
	if err == nil && s.o.Apply != nil {
		s.o.Apply(uploads, zones)
	}
	return err
}

func (s *Service) open(c *model.Certificate) (Upload, error) {
	key, err := s.o.DB.Sealer().Open(c.Key)
	if err != nil {
		return Upload{}, fmt.Errorf("certificate %d: %w", c.ID, err)
	}
	cert, err := tls.X509KeyPair([]byte(c.Chain), key)
	if err != nil {
		return Upload{}, fmt.Errorf("certificate %d: %w", c.ID, err)
	}
	return Upload{c.Names, &cert}, nil
}

// View is the certificate of one name, and the routes that it is for.
type View struct {
	model.CertStatus
	Routes []model.RouteID // none: the administration
}

// List returns the certificates of all names that are served, and those that were
// brought, without their keys.
func (s *Service) List(context.Context) ([]View, []model.Certificate, error) {
	routes := make(map[string][]model.RouteID)
	var brought []model.Certificate
	err := s.o.DB.View(func(tx *store.Tx) error {
		for r, err := range store.Routes.All(tx) {
			if err == nil && r.Type == model.RouteHTTP {
				routes[r.Domain] = append(routes[r.Domain], r.ID)
			}
		}
		for c, err := range store.Certificates.All(tx) {
			if err == nil {
				c.Key = ""
				brought = append(brought, *c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	var list []View
	if s.o.Status != nil {
		for _, st := range s.o.Status() {
			list = append(list, View{st, routes[st.Name]})
		}
	}
	return list, brought, nil
}

// Input is a certificate with its key, both in PEM.
type Input struct {
	Certificate model.Field[string] `json:"certificate" doc:"PEM: the certificate of the server, followed by those that issued it; at most 64 KiB"`
	PrivateKey  model.Field[string] `json:"private_key" doc:"PEM, without a password. It is kept sealed, and never given out"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *Input) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// Upload takes a certificate. It takes the place of one for the same names. Its
// error is of KindInvalid and names certificate or private_key.
func (s *Service) Upload(ctx context.Context, in Input) (model.Certificate, error) {
	now := s.o.Now().UTC()
	cert, names, err := model.ParseCertificate(in.Certificate.Value, in.PrivateKey.Value, now)
	if err != nil {
		return model.Certificate{}, err
	}
	c := model.Certificate{
		Names: names, Chain: in.Certificate.Value, Key: s.o.DB.Sealer().Seal([]byte(in.PrivateKey.Value)),
		Issuer: cert.Leaf.Issuer.CommonName, NotBefore: cert.Leaf.NotBefore.UTC(), NotAfter: cert.Leaf.NotAfter.UTC(), CreatedAt: now,
	}
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		covers, err := s.covers(tx, names)
		if err != nil {
			return err
		}
		if !covers {
			return model.Invalid("certificate", "it is for %s, and none of these names is served here", listed(names))
		}
		if err := replaceSame(tx, names); err != nil {
			return err
		}
		if store.Certificates.Len(tx) >= MaxCertificates {
			return model.Conflict("certificate", "there are %d certificates already, which is the most", MaxCertificates)
		}
		if err := store.Certificates.Insert(tx, &c); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "certificate_uploaded", Message: "a certificate for " + listed(names) + " was brought",
			Details: map[string]any{"id": c.ID, "names": names, "not_after": c.NotAfter},
		})
	})
	if err != nil {
		return model.Certificate{}, err
	}
	c.Key = ""
	return c, s.Load()
}

// covers reports whether one of names is served here, enabled or not.
func (s *Service) covers(tx *store.Tx, names []string) (bool, error) {
	for _, host := range s.o.AdminHosts {
		if model.Covers(names, host) {
			return true, nil
		}
	}
	for r, err := range store.Routes.All(tx) {
		if err != nil {
			return false, err
		}
		if r.Domain != "" && model.Covers(names, r.Domain) {
			return true, nil
		}
	}
	return false, nil
}

// replaceSame deletes what was brought for exactly the same names.
func replaceSame(tx *store.Tx, names []string) error {
	sorted := func(list []string) []string {
		list = slices.Clone(list)
		slices.Sort(list)
		return list
	}
	want := sorted(names)
	var old []model.CertificateID
	for c, err := range store.Certificates.All(tx) {
		if err != nil {
			continue // it cannot be read, and so is shown to nobody
		}
		if slices.Equal(sorted(c.Names), want) {
			old = append(old, c.ID)
		}
	}
	for _, id := range old {
		if _, err := store.Certificates.Delete(tx, id); err != nil {
			return err
		}
	}
	return nil
}

// listed is a list of names for people, not a long one.
func listed(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// Delete removes a certificate that was brought.
func (s *Service) Delete(ctx context.Context, id model.CertificateID) error {
	now := s.o.Now().UTC()
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		c, err := store.Certificates.Get(tx, id)
		if err != nil {
			return err
		}
		if c == nil {
			return model.NotFound("certificate")
		}
		if _, err := store.Certificates.Delete(tx, id); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "certificate_deleted", Message: "the certificate for " + listed(c.Names) + " was deleted",
			Details: map[string]any{"id": c.ID, "names": c.Names},
		})
	})
	if err != nil {
		return err
	}
	return s.Load()
}

// Renew has the certificate of a name renewed now. It does not wait for that.
func (s *Service) Renew(_ context.Context, domain string) error {
	name, ok := hostName(domain)
	if !ok || s.o.Renew == nil {
		return model.NotFound("certificate")
	}
	return s.o.Renew(name)
}

// hostName reads a name as it is spelled in an address.
func hostName(text string) (string, bool) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return a.Unmap().String(), true
	}
	name, ok := model.NormalizeHost(text)
	return name, ok && model.HostPort([]byte(text)) == 0
}
