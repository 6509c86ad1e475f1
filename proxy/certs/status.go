package certs

import (
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"gatecontrol/model"
)

// Status tells of the certificate of every name that is served, in the order of
// names.
func (m *Manager) Status() []model.CertStatus {
	m.mu.Lock()
	names := m.names
	m.mu.Unlock()
	table := *m.table.Load()
	list := make([]model.CertStatus, 0, len(names))
	for _, name := range names {
		if e := table[name]; e != nil {
			list = append(list, m.status(name, e))
		}
	}
	slices.SortFunc(list, func(a, b model.CertStatus) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// lateUpload is how long before its end one that was brought is in trouble: nobody
// but a person renews it.
const lateUpload = 14 * 24 * time.Hour

// Troubled is the part of Status that somebody should know of: what could not be
// had or renewed, has expired, or is about to and was brought.
func (m *Manager) Troubled() []model.CertStatus {
	now := time.Now()
	m.mu.Lock()
	names := m.names
	m.mu.Unlock()
	table := *m.table.Load()
	var list []model.CertStatus
	for _, name := range names {
		e := table[name]
		bad := false
		switch {
		case e == nil:
		case e.upload != nil:
			bad = now.Add(lateUpload).After(e.upload.Leaf.NotAfter)
		case e.subject != nil:
			cert := e.subject.certificate(m)
			m.mu.Lock()
			bad = e.subject.Failures > 0 || cert != nil && now.After(cert.Leaf.NotAfter)
			m.mu.Unlock()
		}
		if bad {
			list = append(list, m.status(name, e))
		}
	}
	return list
}

func (m *Manager) status(name string, e *entry) model.CertStatus {
	st := model.CertStatus{Name: name, Subject: name, State: model.CertInternal}
	var leaf *x509.Certificate
	switch {
	case e.upload != nil:
		st.State, leaf = model.CertUploaded, e.upload.Leaf
		st.Issuer = issuerName(leaf)
	case e.subject != nil:
		cert := e.subject.certificate(m)
		m.mu.Lock()
		s := e.subject
		st.Subject, st.LastError, st.Advice, st.Failures = s.name, s.Error, s.Advice, s.Failures
		st.State = model.CertPending
		if s.Failures > 0 {
			st.State = model.CertFailed
		}
		st.NextRenewal = s.Retry
		if cert != nil {
			leaf = cert.Leaf
			st.NextRenewal = m.nextAttemptLocked(s)
			if st.Issuer = issuerName(leaf); time.Now().Before(leaf.NotAfter) {
				st.State = model.CertValid
			} else {
				st.State, st.Expired = model.CertFailed, true
			}
		}
		m.mu.Unlock()
	}
	if leaf == nil {
		cert, err := m.opts.Internal(name)
		if err != nil {
			st.State, st.LastError = model.CertFailed, err.Error()
			return st
		}
		leaf = cert.Leaf
		st.Issuer = issuerName(leaf)
	}
	st.NotBefore, st.NotAfter = leaf.NotBefore, leaf.NotAfter
	return st
}

func (m *Manager) nextAttemptLocked(s *subject) time.Time {
	if at := s.renewAt(); at.After(s.Retry) {
		return at
	}
	return s.Retry
}

func issuerName(leaf *x509.Certificate) string {
	name := leaf.Issuer.CommonName
	if len(leaf.Issuer.Organization) > 0 && !strings.Contains(name, leaf.Issuer.Organization[0]) {
		name = strings.TrimSpace(leaf.Issuer.Organization[0] + " " + name)
	}
	return clean(name)
}

// Renew has the certificate of a name renewed, or asked for again, now. It returns
// before that is done. Its error is of kind not found, conflict if there is nothing
// to renew, or limited.
func (m *Manager) Renew(name string) error {
	e := (*m.table.Load())[name]
	switch {
	case e == nil:
		return model.NotFound("certificate")
	case e.upload != nil:
		return model.Conflict("", "the certificate was brought; bring a new one instead")
	case e.subject == nil:
		return model.Conflict("", "the certificate is one of the internal authority, which renews by itself")
	}
	now := time.Now()
	s := e.subject
	s.certificate(m)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, at := (&attempt{}).next(s.Limits, m.cas, now); !at.IsZero() {
		return model.Failure(model.KindLimited, "the authority asks to wait until %s", at.UTC().Format(time.DateTime+" UTC"))
	}
	if at := s.Tried.Add(m.times.byHand); s.running || now.Before(at) {
		return model.Failure(model.KindLimited, "it was tried just now; try again in a minute")
	}
	s.asked, s.next = true, time.Time{}
	m.poke()
	return nil
}

// Budget is what is known of the limits of the authority for one more certificate
// of name, which need not be served.
type Budget struct {
	Wait        time.Time // the authority wants to be left alone until then; zero: it does not
	SameName    int       // certificates of this name in the last 7 days
	Domain      string    // registered domain of it
	SameDomain  int       // certificates of that in the last 7 days
	Authorities []CA      // that are asked, in their order; none: the internal one alone
	Subject     string    // the name that the certificate would have
	DNS         bool      // proven through records of the zone
}

// Budget returns the budget of a name.
func (m *Manager) Budget(name string) Budget {
	now := time.Now()
	m.mu.Lock()
	key, z := m.subjectOf(name)
	all := make([]*subject, 0, len(m.subjects))
	for _, s := range m.subjects {
		all = append(all, s)
	}
	m.mu.Unlock()
	b := Budget{Subject: key, DNS: z != nil, Domain: registered(key)}
	if m.certifies(name) {
		for _, a := range m.cas {
			b.Authorities = append(b.Authorities, a.ca)
		}
	}
	for _, s := range all {
		s.certificate(m)
		m.mu.Lock()
		recent := 0
		for _, at := range s.Issued {
			if now.Sub(at) < 7*24*time.Hour {
				recent++
			}
		}
		if registered(s.name) == b.Domain {
			b.SameDomain += recent
		}
		if s.name == key {
			b.SameName = recent
			_, b.Wait = (&attempt{}).next(s.Limits, m.cas, now)
		}
		m.mu.Unlock()
	}
	return b
}

func registered(name string) string {
	name = strings.TrimPrefix(name, "*.")
	if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return d
	}
	return name
}

// acmeLog is for what the client of the protocol says: each request of an order.
func (m *Manager) acmeLog() *slog.Logger { return slog.New(quiet{m.log.Handler()}) }
