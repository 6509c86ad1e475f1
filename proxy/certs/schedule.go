package certs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// Run gets and renews certificates until ctx ends, and waits for what it began.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	staple := time.NewTicker(m.times.staple)
	defer staple.Stop()
	clean := time.NewTicker(m.times.clean)
	defer clean.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		case <-staple.C:
			m.takeStaples()
		case <-clean.C:
			working.Go(func() { m.clean(ctx) })
		}
		due, next := m.due(time.Now())
		for _, s := range due {
			working.Go(func() {
				m.look(ctx, s)
				m.poke()
			})
		}
		if next.IsZero() {
			next = time.Now().Add(time.Hour) // nothing to do; changes wake
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// due marks those subjects as running that are to be looked at now, as far as
// there are workers for them, and says when to ask again.
func (m *Manager) due(now time.Time) (list []*subject, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	soonest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if end := m.nextExpiryLocked(); !end.IsZero() && now.After(end) {
		m.arrangeLocked(now) // it no longer wins
	}
	if end := m.nextExpiryLocked(); !end.IsZero() {
		soonest(end.Add(time.Second))
	}
	free := m.times.workers
	for _, s := range m.subjects {
		if s.running {
			free--
		}
	}
	for _, s := range m.subjects {
		switch {
		case s.running:
		case s.next.After(now):
			soonest(s.next)
		case free > 0: // else the end of one of those that run wakes us
			free--
			s.running = true
			list = append(list, s)
		}
	}
	return list, next
}

// look does what is to be done for s, and says when to look again. running is set.
func (m *Manager) look(ctx context.Context, s *subject) {
	ctx, cancel := context.WithTimeout(ctx, m.times.attempt)
	defer cancel()
	m.mu.Lock()
	s.cancel = cancel
	gone := s.gone
	m.mu.Unlock()
	if !gone {
		cert := s.certificate(m)
		if cert != nil && !s.stapled {
			m.install(ctx, s)
			m.refresh(ctx, s)
		}
		m.step(ctx, s)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.running, s.cancel = false, nil
}

// step asks for a certificate if one is due.
func (m *Manager) step(ctx context.Context, s *subject) {
	now := time.Now()
	cert := s.cert.Load()
	m.mu.Lock()
	refresh := cert != nil && s.issuer != nil && now.After(s.ariNext)
	m.mu.Unlock()
	if refresh {
		m.refresh(ctx, s)
	}
	m.mu.Lock()
	a := &attempt{limits: s.Limits, issuer: s.issuer}
	if cert != nil {
		a.replaces = cert.Leaf
	}
	wanted := cert == nil || s.revoked || s.asked || !now.Before(s.renewAt())
	ready := s.asked || !now.Before(s.Retry)
	before := s.history
	a.zone = m.zones.of(s.name)
	m.mu.Unlock()
	if wanted && ready {
		m.remember(ctx, s, before.begun(now))
		err := m.obtain(a.in(ctx), s, cert != nil)
		m.conclude(ctx, s, a, before, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.next = m.nextLocked(s, time.Now())
}

// nextLocked is when s is to be looked at again.
func (m *Manager) nextLocked(s *subject, now time.Time) time.Time {
	if s.asked || s.cert.Load() == nil || s.revoked {
		return s.Retry
	}
	at := s.renewAt()
	if s.Retry.After(at) {
		at = s.Retry
	}
	if s.ariNext.Before(at) && s.ariNext.After(now) {
		return s.ariNext
	}
	return at
}

func (m *Manager) obtain(ctx context.Context, s *subject, renew bool) error {
	if strings.HasPrefix(s.name, "*.") && attemptOf(ctx).zone == nil {
		return errors.New("a wildcard is proven through DNS alone")
	}
	if renew {
		return m.config.RenewCertSync(ctx, s.name, true)
	}
	return m.config.ObtainCertSync(ctx, s.name)
}

// conclude notes what came of an attempt.
func (m *Manager) conclude(ctx context.Context, s *subject, a *attempt, before history, err error) {
	now := time.Now()
	if err == nil {
		m.install(ctx, s)
		if s.cert.Load() == nil {
			err = errors.New("the new certificate cannot be read from the store")
		}
	}
	m.mu.Lock()
	gone := s.gone
	m.mu.Unlock()
	if err = a.outcome(err); err != nil && (gone || errors.Is(context.Cause(ctx), context.Canceled)) {
		m.remember(context.WithoutCancel(ctx), s, before)
		return // given up by us, which says nothing of the name
	}
	var h history
	if err == nil {
		h = before.succeeded(now)
	} else {
		limits, limited := a.next(before.Limits, m.cas, now)
		h = before.failed(now, m.times.delay(before.Failures+1), limits, limited, err)
	}
	m.mu.Lock()
	s.history, s.asked = h, false
	if err == nil {
		s.revoked, s.ari, s.ariNext = false, acme.RenewalInfo{}, time.Time{}
	}
	m.mu.Unlock()
	m.remember(context.WithoutCancel(ctx), s, h)
	if err != nil {
		m.log.Warn("a certificate could not be had", "name", s.name, "failures", h.Failures, "next", h.Retry, "err", err)
		return
	}
	m.log.Info("a certificate was issued", "name", s.name, "until", s.cert.Load().Leaf.NotAfter)
	m.refresh(ctx, s)
}

// install has s show what is stored, with a staple if there is one, and certmagic
// look after the staple.
func (m *Manager) install(ctx context.Context, s *subject) {
	cert, issuer := m.stored(ctx, s.name)
	if cert == nil {
		return
	}
	m.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: s.name}})
	if c, err := m.config.CacheManagedCertificate(ctx, s.name); err == nil {
		if c.Leaf != nil && c.Leaf.Equal(cert.Leaf) {
			cert.OCSPStaple = c.OCSPStaple
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.issuer, s.stapled = issuer, true
	s.cert.Store(cert)
	if s.gone {
		m.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: s.name}})
	}
}

// Bounds of the time until an authority is asked again when to renew.
const (
	ariMost  = 24 * time.Hour
	ariNever = 30 * 24 * time.Hour // it knows nothing of that; it may learn
)

// refresh asks the authority of s when to renew. That this fails is no matter: a
// third of the life is time enough.
func (m *Manager) refresh(ctx context.Context, s *subject) {
	m.mu.Lock()
	issuer, cert := s.issuer, s.cert.Load()
	m.mu.Unlock()
	if issuer == nil || cert == nil {
		return
	}
	info, err := issuer.renewalInfo(ctx, cert.Leaf)
	now := time.Now()
	wait := ariMost
	switch {
	case errors.Is(err, acme.ErrUnsupported):
		wait = ariNever
	case err != nil:
		wait = 6 * m.times.ari
		m.log.Debug("when to renew could not be asked", "name", s.name, "err", err)
	case info.RetryAfter != nil:
		wait = min(max(info.RetryAfter.Sub(now), m.times.ari), ariMost)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.ariNext = now.Add(wait)
	// A new time within the same window would move the renewal at each question.
	if err == nil && info.HasWindow() && !info.SameWindow(s.ari) {
		s.ari = info
	}
}

// takeStaples has subjects show the staples that certmagic has got meanwhile.
func (m *Manager) takeStaples() {
	m.mu.Lock()
	list := make([]*subject, 0, len(m.subjects))
	for _, s := range m.subjects {
		list = append(list, s)
	}
	m.mu.Unlock()
	for _, s := range list {
		old := s.cert.Load()
		if old == nil {
			continue
		}
		for _, c := range m.cache.AllMatchingCertificates(s.name) {
			if c.Leaf != nil && c.Leaf.Equal(old.Leaf) && string(c.OCSPStaple) != string(old.OCSPStaple) {
				fresh := *old
				fresh.OCSPStaple = c.OCSPStaple
				s.cert.CompareAndSwap(old, &fresh)
			}
		}
	}
}

// expiredKept is how long a certificate is kept after its end.
const expiredKept = 30 * 24 * time.Hour

// clean removes what has been of no use for long.
func (m *Manager) clean(ctx context.Context) {
	err := certmagic.CleanStorage(ctx, m.store, certmagic.CleanStorageOptions{
		Logger: m.config.Logger, OCSPStaples: true, ExpiredCerts: true, ExpiredCertGracePeriod: expiredKept,
	})
	if err != nil && ctx.Err() == nil {
		m.log.Warn("expired certificates could not be removed from the store", "err", err)
	}
}
