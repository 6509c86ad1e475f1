package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// authority is a CA as certmagic asks it for certificates.
type authority struct {
	m      *Manager
	ca     CA
	key    string // under which its certificates and account are kept
	client *http.Client
}

var _ certmagic.Issuer = (*authority)(nil)

func newAuthority(m *Manager, ca CA, directory *url.URL) *authority {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.opts.Roots}
	transport.ResponseHeaderTimeout = 30 * time.Second
	transport.IdleConnTimeout = 30 * time.Second
	transport.MaxResponseHeaderBytes = 64 << 10
	key := directory.Host + strings.TrimSuffix(directory.Path, "/")
	return &authority{
		m: m, ca: ca, key: strings.NewReplacer("/", "-", ":", "-").Replace(key),
		client: &http.Client{Transport: watcher{transport}, Timeout: time.Minute},
	}
}

// IssuerKey tells authorities apart in storage.
func (a *authority) IssuerKey() string { return a.key }

func (a *authority) acme() *acme.Client {
	return &acme.Client{Directory: a.ca.Directory, HTTPClient: a.client, UserAgent: "GateControl", Logger: a.m.acmeLog()}
}

// Issue runs one order. certmagic calls it for the authorities in their order
// until one succeeds; what each of them says is noted in the attempt.
func (a *authority) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	attempt := attemptOf(ctx)
	if attempt == nil {
		return nil, errors.New("certs: an order that is not on the schedule")
	}
	if until := attempt.limits[a.key]; time.Now().Before(until) {
		err := &limitedError{ca: a.ca.Name, until: until}
		attempt.failed(a, err)
		return nil, err
	}
	attempt.asks(a)
	chain, err := a.order(ctx, attempt, csr)
	if err != nil {
		attempt.failed(a, err)
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: chain.ChainPEM, Metadata: chain}, nil
}

func (a *authority) order(ctx context.Context, attempt *attempt, csr *x509.CertificateRequest) (*acme.Certificate, error) {
	solvers := make(map[string]acmez.Solver)
	if z := attempt.zone; z != nil {
		solvers[acme.ChallengeTypeDNS01] = dnsSolver{z, a.m.opts.Resolver}
	} else {
		solvers[acme.ChallengeTypeHTTP01] = httpSolver{&a.m.tokens}
		solvers[acme.ChallengeTypeTLSALPN01] = alpnSolver{&a.m.tokens}
	}
	for _, kind := range a.m.times.without {
		delete(solvers, kind)
	}
	client := &acmez.Client{Client: a.acme(), ChallengeSolvers: solvers}
	for again := true; ; again = false {
		account, err := a.account(ctx, client.Client)
		if err != nil {
			return nil, err
		}
		params, err := acmez.OrderParametersFromCSR(account, csr)
		if err != nil {
			return nil, err
		}
		if attempt.replaces != nil && attempt.issuer == a {
			params.Replaces = attempt.replaces // RFC 9773, section 5
		}
		chains, err := client.ObtainCertificate(ctx, params)
		if p, ok := errors.AsType[acme.Problem](err); ok && p.Type == acme.ProblemTypeAccountDoesNotExist && again {
			// It was deleted there, or the authority was set up anew.
			if err := a.m.store.Delete(ctx, a.accountKey()); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(chains) == 0 {
			return nil, errors.New("the authority answered with no certificate")
		}
		return &chains[0], nil // the first is the one that it prefers
	}
}

// savedAccount is an account at an authority with its key.
type savedAccount struct {
	Account acme.Account `json:"account"`
	Key     string       `json:"key"` // PEM
}

func (a *authority) accountKey() string {
	email := strings.ToLower(a.m.opts.Email)
	if email == "" {
		email = "default"
	}
	return "accounts/" + a.key + "/" + strings.ReplaceAll(email, "/", "_") + ".json"
}

// account returns the account, made at the first order. Several orders at once
// make one. The key is stored before the authority sees it: a process that ends in
// between asks with the same key again, and is given the account that there is
// (RFC 8555, section 7.3.1).
func (a *authority) account(ctx context.Context, client *acme.Client) (acme.Account, error) {
	key := a.accountKey()
	if err := a.m.store.Lock(ctx, key); err != nil {
		return acme.Account{}, err
	}
	defer func() { _ = a.m.store.Unlock(ctx, key) }()
	account, err := a.savedAccount(ctx, key)
	if err != nil || account.Location != "" {
		return account, err
	}
	if account.PrivateKey == nil {
		if account.PrivateKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return acme.Account{}, err
		}
		if err := a.saveAccount(ctx, key, account); err != nil {
			return acme.Account{}, err
		}
	}
	account.TermsOfServiceAgreed = true
	if a.m.opts.Email != "" {
		account.Contact = []string{"mailto:" + a.m.opts.Email}
	}
	dir, err := client.GetDirectory(ctx)
	if err != nil {
		return acme.Account{}, err
	}
	if dir.Meta != nil && dir.Meta.ExternalAccountRequired {
		if a.m.opts.EABKeyID == "" {
			return acme.Account{}, errNoBinding
		}
		eab := acme.EAB{KeyID: a.m.opts.EABKeyID, MACKey: strings.TrimRight(a.m.opts.EABKey.Reveal(), "=")}
		if err := account.SetExternalAccountBinding(ctx, client, eab); err != nil {
			return acme.Account{}, err
		}
	}
	if account, err = client.NewAccount(ctx, account); err != nil {
		return acme.Account{}, fmt.Errorf("register an account: %w", err)
	}
	return account, a.saveAccount(ctx, key, account)
}

// savedAccount is what is stored: an account, or its key alone if it is not known
// whether it exists, or nothing.
func (a *authority) savedAccount(ctx context.Context, key string) (acme.Account, error) {
	raw, err := a.m.store.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return acme.Account{}, nil
	}
	if err != nil {
		return acme.Account{}, err
	}
	var saved savedAccount
	if err = json.Unmarshal(raw, &saved); err == nil {
		saved.Account.PrivateKey, err = certmagic.PEMDecodePrivateKey([]byte(saved.Key))
	}
	if err != nil {
		a.m.log.Warn("an account cannot be read and is made anew", "authority", a.ca.Name, "err", err)
		return acme.Account{}, nil
	}
	return saved.Account, nil
}

func (a *authority) saveAccount(ctx context.Context, key string, account acme.Account) error {
	keyPEM, err := certmagic.PEMEncodePrivateKey(account.PrivateKey)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(savedAccount{account, string(keyPEM)})
	if err != nil {
		return err
	}
	return a.m.store.Store(ctx, key, raw)
}

var errNoBinding = errors.New("the authority wants an account that is bound to one of its customers")

// renewalInfo asks when a certificate should be renewed (RFC 9773, section 4).
func (a *authority) renewalInfo(ctx context.Context, leaf *x509.Certificate) (acme.RenewalInfo, error) {
	return a.acme().GetRenewalInfo(ctx, leaf)
}

// limitedError is that an authority wants to be left alone for a time.
type limitedError struct {
	ca    string
	until time.Time
}

func (e *limitedError) Error() string {
	return fmt.Sprintf("%s asks to wait until %s", e.ca, e.until.UTC().Format(time.DateTime+" UTC"))
}

// maxRetryAfter bounds what an authority can ask for: the windows of public ones
// are a week.
const maxRetryAfter = 8 * 24 * time.Hour

// watcher notes in the attempt what an authority says of when to come again. It
// is the answer that has it; the error that the library makes of it does not.
type watcher struct{ *http.Transport }

func (w watcher) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.Transport.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return resp, err
	}
	now := time.Now()
	if until := retryAfter(resp.Header.Get("Retry-After"), now); until.After(now) {
		if attempt := attemptOf(r.Context()); attempt != nil {
			attempt.wait(until)
		}
	}
	return resp, nil
}

// retryAfter reads a Retry-After field (RFC 9110, section 10.2.3): zero if it says
// nothing.
func retryAfter(field string, now time.Time) time.Time {
	var until time.Time
	if n, err := strconv.ParseUint(field, 10, 31); err == nil {
		until = now.Add(time.Duration(n) * time.Second)
	} else if until, err = http.ParseTime(field); err != nil {
		return time.Time{}
	}
	if most := now.Add(maxRetryAfter); until.After(most) {
		return most
	}
	return until
}
