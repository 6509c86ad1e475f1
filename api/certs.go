package api

import (
	"context"
	"time"

	"gatecontrol/control/certs"
	"gatecontrol/model"
)

type certificateView struct {
	Domain      string          `json:"domain"`
	Subject     string          `json:"subject" doc:"Name of the certificate: the domain, or the wildcard that it shares"`
	Status      model.CertState `json:"status" enum:"valid,pending,failed,internal,uploaded" doc:"Until a public certificate is there, the internal one is shown"`
	Issuer      *string         `json:"issuer"`
	NotBefore   *string         `json:"not_before" format:"date-time"`
	NotAfter    *string         `json:"not_after" format:"date-time"`
	NextRenewal *string         `json:"next_renewal" format:"date-time" doc:"The next attempt; null where none is needed"`
	LastError   *string         `json:"last_error" doc:"Of the last attempt, in plain words"`
	Advice      *string         `json:"advice" doc:"What to do about it"`
	RouteIDs    []model.RouteID `json:"route_ids" doc:"None for the administration"`
}

type uploadView struct {
	ID        model.CertificateID `json:"id"`
	Names     []string            `json:"names" doc:"That it covers"`
	Issuer    string              `json:"issuer"`
	NotBefore string              `json:"not_before" format:"date-time"`
	NotAfter  string              `json:"not_after" format:"date-time"`
	CreatedAt string              `json:"created_at"`
}

func viewUpload(c *model.Certificate) uploadView {
	return uploadView{c.ID, c.Names, c.Issuer, iso(c.NotBefore), iso(c.NotAfter), dt(c.CreatedAt)}
}

type certificatesAnswer struct {
	OK           ok                `json:"ok"`
	Certificates []certificateView `json:"certificates"`
	Uploads      []uploadView      `json:"uploads" doc:"Those that were brought"`
}

func (s *Server) listCertificates(ctx context.Context, _ *request, _ *none) (certificatesAnswer, error) {
	list, brought, err := s.Certs.List(ctx)
	if err != nil {
		return certificatesAnswer{}, err
	}
	a := certificatesAnswer{Certificates: make([]certificateView, len(list)), Uploads: make([]uploadView, len(brought))}
	for i := range list {
		c := &list[i]
		a.Certificates[i] = certificateView{
			Domain: c.Name, Subject: c.Subject, Status: c.State, Issuer: orNull(c.Issuer),
			NotBefore: timeOrNull(c.NotBefore), NotAfter: timeOrNull(c.NotAfter), NextRenewal: timeOrNull(c.NextRenewal),
			LastError: orNull(c.LastError), Advice: orNull(c.Advice), RouteIDs: c.Routes,
		}
		if c.Routes == nil {
			a.Certificates[i].RouteIDs = []model.RouteID{}
		}
	}
	for i := range brought {
		a.Uploads[i] = viewUpload(&brought[i])
	}
	return a, nil
}

func timeOrNull(t time.Time) *string { return isoOrNull(&t) }

type certificateUpload struct {
	Body certs.Input
}

type uploadAnswer struct {
	OK          ok         `json:"ok"`
	Certificate uploadView `json:"certificate"`
}

func (s *Server) uploadCertificate(ctx context.Context, _ *request, in *certificateUpload) (uploadAnswer, error) {
	c, err := s.Certs.Upload(ctx, in.Body)
	if err != nil {
		return uploadAnswer{}, err
	}
	return uploadAnswer{Certificate: viewUpload(&c)}, nil
}

type certificateID struct {
	ID model.CertificateID `path:"id"`
}

func (s *Server) deleteCertificate(ctx context.Context, _ *request, in *certificateID) (done, error) {
	return done{}, s.Certs.Delete(ctx, in.ID)
}

type certificateDomain struct {
	Domain string `path:"domain"`
}

func (s *Server) renewCertificate(ctx context.Context, _ *request, in *certificateDomain) (done, error) {
	return done{}, s.Certs.Renew(ctx, in.Domain)
}

func (s *Server) rootCertificate(context.Context, *request, *none) (responder, error) {
	return file{"application/x-pem-file", "gatecontrol-ca.pem", s.Certs.Root()}, nil
}

type preflightInput struct {
	Body domainBody
}

type domainBody struct {
	Domain model.Field[string] `json:"domain"`
}

type checkView struct {
	Check  string  `json:"check" doc:"authority, dns, port 80, port 443, caa or budget"`
	OK     *bool   `json:"ok" doc:"null where it cannot be told from here"`
	Why    string  `json:"why"`
	Advice *string `json:"advice"`
}

type preflightAnswer struct {
	OK     ok          `json:"ok"`
	Ready  bool        `json:"ready" doc:"Nothing that was looked at is in the way"`
	Checks []checkView `json:"checks"`
}

func (s *Server) preflight(ctx context.Context, _ *request, in *preflightInput) (preflightAnswer, error) {
	list, err := s.Certs.Preflight(ctx, in.Body.Domain.Value)
	if err != nil {
		return preflightAnswer{}, err
	}
	a := preflightAnswer{Ready: true, Checks: make([]checkView, len(list))}
	for i, c := range list {
		a.Checks[i] = checkView{c.Name, c.OK, c.Why, orNull(c.Advice)}
		a.Ready = a.Ready && (c.OK == nil || *c.OK)
	}
	return a, nil
}

type zoneView struct {
	Zone      string            `json:"zone"`
	Provider  string            `json:"provider" enum:"acme-dns,cloudflare,desec,hetzner,rfc2136"`
	Settings  map[string]string `json:"settings" doc:"Those that are not secret"`
	Wildcard  bool              `json:"wildcard"`
	UpdatedAt string            `json:"updated_at"`
}

func viewZone(z *model.DNSZone) zoneView {
	v := zoneView{z.Zone, z.Provider, z.Settings, z.Wildcard, dt(z.UpdatedAt)}
	if v.Settings == nil {
		v.Settings = map[string]string{}
	}
	return v
}

type zonesAnswer struct {
	OK    ok         `json:"ok"`
	Zones []zoneView `json:"zones"`
}

func (s *Server) listZones(ctx context.Context, _ *request, _ *none) (zonesAnswer, error) {
	list, err := s.Certs.Zones(ctx)
	if err != nil {
		return zonesAnswer{}, err
	}
	a := zonesAnswer{Zones: make([]zoneView, len(list))}
	for i := range list {
		a.Zones[i] = viewZone(&list[i])
	}
	return a, nil
}

type zoneChange struct {
	Zone string `path:"zone"`
	Body certs.ZoneInput
}

type zoneAnswer struct {
	OK   ok       `json:"ok"`
	Zone zoneView `json:"zone"`
}

func (s *Server) setZone(ctx context.Context, _ *request, in *zoneChange) (zoneAnswer, error) {
	z, err := s.Certs.SetZone(ctx, in.Zone, in.Body)
	if err != nil {
		return zoneAnswer{}, err
	}
	return zoneAnswer{Zone: viewZone(&z)}, nil
}

type zoneName struct {
	Zone string `path:"zone"`
}

func (s *Server) deleteZone(ctx context.Context, _ *request, in *zoneName) (done, error) {
	return done{}, s.Certs.DeleteZone(ctx, in.Zone)
}
