package app

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"gatecontrol/control/certs"
	"gatecontrol/model"
	proxycerts "gatecontrol/proxy/certs"
	"gatecontrol/proxy/dns01"
)

// Who issues certificates.
const (
	issuerAuto     = "auto"
	issuerInternal = "internal"
	issuerACME     = "acme"
)

// The authority that is asked where none is named, and where to try things out.
const (
	letsEncrypt        = "https://acme-v02.api.letsencrypt.org/directory"
	letsEncryptStaging = "https://acme-staging-v02.api.letsencrypt.org/directory"
)

// knownAuthorities are the names of public authorities by the hosts of their
// directories, and those by which CAA records mean them.
var knownAuthorities = map[string]proxycerts.CA{
	"acme-v02.api.letsencrypt.org":         {Name: "Let's Encrypt", Identities: []string{"letsencrypt.org"}},
	"acme-staging-v02.api.letsencrypt.org": {Name: "Let's Encrypt staging", Identities: []string{"letsencrypt.org"}},
	"acme.zerossl.com":                     {Name: "ZeroSSL", Identities: []string{"sectigo.com", "zerossl.com"}},
	"dv.acme-v02.api.pki.goog":             {Name: "Google Trust Services", Identities: []string{"pki.goog"}},
}

// checkIssuer reads the settings about authorities.
func (s *checked) checkIssuer(bad *model.Invalids) {
	if s.ACMEEmail != "" {
		if user, host, ok := strings.Cut(s.ACMEEmail, "@"); !ok || user == "" || host == "" || strings.ContainsAny(s.ACMEEmail, " \t\r\n,?") {
			bad.Add("GC_ACME_EMAIL", "must be an e-mail address")
		}
	}
	if (s.ACMEKeyID == "") != (s.ACMEKey == "") {
		bad.Add("GC_ACME_EAB_KEY_ID", "and GC_ACME_EAB_KEY must be set together")
	}
	if s.ACMECARoot != "" {
		raw, err := os.ReadFile(s.ACMECARoot)
		if err != nil {
			bad.Add("GC_ACME_CA_ROOT", "cannot be read: %v", err)
			return
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(raw) {
			bad.Add("GC_ACME_CA_ROOT", "must be a file with a certificate in PEM")
			return
		}
		s.acmeRoots = roots
	}
	if s.TLSIssuer == issuerInternal {
		return
	}
	list := s.ACMECA
	if len(list) == 0 {
		list = []string{letsEncrypt}
	}
	for _, directory := range list {
		directory = strings.TrimSpace(directory)
		if s.ACMEStaging && directory == letsEncrypt {
			directory = letsEncryptStaging
		}
		u, err := url.Parse(directory)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			bad.Add("GC_ACME_CA", "must be https:// addresses of ACME directories, separated by commas")
			return
		}
		ca := knownAuthorities[u.Host]
		ca.Directory = directory
		s.cas = append(s.cas, ca)
	}
}

// buildIssuance makes what the proxy asks for certificates.
func (a *App) buildIssuance() (err error) {
	s := a.options
	a.resolving = new(dns01.Resolver)
	if a.issuance, err = proxycerts.New(proxycerts.Options{
		Log: a.log.With("part", "certificates"), Storage: a.db.Blobs(), Internal: a.authority.Certificate,
		CAs: s.cas, Email: s.ACMEEmail, EABKeyID: s.ACMEKeyID, EABKey: s.ACMEKey, AllNames: s.TLSIssuer == issuerACME,
		Roots: s.acmeRoots, Resolver: a.resolving,
	}); err != nil {
		return err
	}
	a.onStop("certificates", a.issuance.Close)
	return nil
}

// buildCertService makes the use cases, and hands over what is stored.
func (a *App) buildCertService() error {
	a.certs = certs.New(certs.Options{
		DB: a.db, Log: a.log.With("part", "certificates"), Now: a.now, AdminHosts: a.options.adminHosts, Root: a.authority.RootPEM(),
		Apply: a.applyCertificates, Status: a.issuance.Status, Renew: a.issuance.Renew,
		Look: certs.Look{
			Addrs: func(ctx context.Context, name string) ([]netip.Addr, error) {
				addrs, err := a.resolving.Addrs(ctx, name)
				if errors.Is(err, dns01.ErrNoName) {
					return nil, certs.ErrNoName
				}
				return addrs, err
			},
			ForbiddenBy: a.forbiddenBy,
			Own:         a.ownAddrs,
			Reach: func(ctx context.Context, name string, addr netip.Addr, secure bool) error {
				err := a.issuance.Reach(ctx, name, addr, secure)
				if errors.Is(err, proxycerts.ErrOther) {
					return certs.ErrOther
				}
				return err
			},
			Budget: a.budget,
		},
	})
	return a.certs.Load()
}

// applyCertificates hands what is stored to who shows it.
func (a *App) applyCertificates(uploads []certs.Upload, zones []certs.Zone) {
	shown := make([]proxycerts.Upload, len(uploads))
	for i, u := range uploads {
		shown[i] = proxycerts.Upload{Names: u.Names, Cert: u.Cert}
	}
	list := make([]proxycerts.Zone, 0, len(zones))
	for _, z := range zones {
		provider, err := dns01.New(z.Provider, z.Settings)
		if err != nil {
			a.log.Error("a DNS zone is left out", "zone", z.Zone, "err", err)
			continue
		}
		// A server that answers for challenges alone has the new value at once, and
		// is found through an alias.
		list = append(list, proxycerts.Zone{Zone: z.Zone, Provider: provider, Wildcard: z.Wildcard, Check: z.Provider != model.DNSACMEDNS})
	}
	a.issuance.Set(shown, list)
}

// forbiddenBy tells whose CAA records keep all of the authorities from name. One
// whose names are not known is taken to be meant.
func (a *App) forbiddenBy(ctx context.Context, name string, authorities [][]string) (string, error) {
	caa, err := a.resolving.CAA(ctx, name)
	if err != nil {
		return "", err
	}
	for _, ids := range authorities {
		if len(ids) == 0 || caa.Allows(name, ids) {
			return "", nil
		}
	}
	return caa.At, nil
}

// ownAddrs are the addresses by which this server may be known from outside:
// those of its interfaces, and what the names in its settings lead to.
func (a *App) ownAddrs(ctx context.Context) []netip.Addr {
	list := append(hostAddrs(), a.options.publicAddrs()...)
	for _, name := range a.options.knownAs() {
		if !model.DomainIsPublic(name) {
			continue
		}
		if addrs, err := a.resolving.Addrs(ctx, name); err == nil {
			list = append(list, addrs...)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

func (a *App) budget(name string) certs.Budget {
	b := a.issuance.Budget(name)
	out := certs.Budget{
		Subject: b.Subject, DNS: b.DNS, Wait: b.Wait, SameName: b.SameName, Domain: b.Domain, SameDomain: b.SameDomain,
	}
	for _, ca := range b.Authorities {
		out.Authorities = append(out.Authorities, ca.Identities)
	}
	return out
}
