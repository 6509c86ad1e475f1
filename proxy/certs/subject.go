package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// subject is a name that an authority certifies, as the schedule sees it. Its
// fields but the first three are guarded by the Manager's mu.
type subject struct {
	name string
	load sync.Once                       // of what is stored
	cert atomic.Pointer[tls.Certificate] // nil: there is none yet

	issuer  *authority // of cert
	ari     acme.RenewalInfo
	ariNext time.Time // when to ask again

	next    time.Time // when the schedule looks at it; zero: now
	running bool
	gone    bool // no longer served
	stapled bool // certmagic has it and staples OCSP
	revoked bool // to be replaced at once
	asked   bool // a person wants it renewed now
	cancel  context.CancelFunc
	history
}

// history is what outlives a restart, so that one does not ask anew what was
// refused a minute ago.
type history struct {
	Failures int                  `json:"failures,omitempty"` // in a row
	Tried    time.Time            `json:"tried,omitzero"`     // the last attempt
	Retry    time.Time            `json:"retry,omitzero"`     // not before
	Error    string               `json:"error,omitempty"`
	Advice   string               `json:"advice,omitempty"`
	Limits   map[string]time.Time `json:"limits,omitempty"` // of authorities
	// Cut counts attempts in a row that this process did not live to see the end of.
	// It is stored while one runs.
	Cut    int         `json:"cut,omitempty"`
	Issued []time.Time `json:"issued,omitempty"` // the last few
}

// maxIssued bounds what is remembered of the past: what a public authority gives
// out for one name in a week.
const maxIssued = 8

func (s *subject) historyKey() string {
	return "attempts/" + certmagic.StorageKeys.Safe(s.name) + ".json"
}

// certificate returns what is there, read from the store at the first call, so
// that the first handshake after a restart has it.
func (s *subject) certificate(m *Manager) *tls.Certificate {
	if s == nil {
		return nil
	}
	s.load.Do(func() { m.recall(s) })
	return s.cert.Load()
}

// recall reads what is stored of s.
func (m *Manager) recall(s *subject) {
	ctx := context.Background()
	cert, issuer := m.stored(ctx, s.name)
	var h history
	raw, err := m.store.Load(ctx, s.historyKey())
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("what was tried for a certificate before cannot be read", "name", s.name, "err", err)
	}
	if h.Cut > 0 {
		h = m.afterCut(ctx, s.name, issuer, h)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.history, s.issuer = h, issuer
	s.cert.Store(cert)
}

// afterCut is what h becomes if the process ended during an attempt. That may have
// come to its end all the same, but for the note. If not, another follows at once; but
// where one after the other ends the process, they do so with the pauses of failures: an
// authority does not get an order with every start.
func (m *Manager) afterCut(ctx context.Context, name string, issuer *authority, h history) history {
	if issuer != nil {
		_, saved, err := m.store.Storage.Load(ctx, certmagic.StorageKeys.SiteCert(issuer.key, name))
		if err == nil && !saved.Before(h.Tried) {
			return h.succeeded(saved)
		}
	}
	if h.Cut > 1 {
		if at := h.Tried.Add(m.times.delay(h.Cut - 1)); at.After(h.Retry) {
			h.Retry = at
		}
		h.Error = fmt.Sprintf("this server ended during the last %d attempts", h.Cut)
		h.Advice = "Look at the end of its log before each restart."
	}
	return h
}

// stored returns the newest certificate of name in the store, of an authority that
// is configured. One that cannot be read is as good as none.
func (m *Manager) stored(ctx context.Context, name string) (best *tls.Certificate, issuer *authority) {
	for _, a := range m.cas {
		chain, err := m.store.Load(ctx, certmagic.StorageKeys.SiteCert(a.key, name))
		if err != nil {
			continue
		}
		key, err := m.store.Load(ctx, certmagic.StorageKeys.SitePrivateKey(a.key, name))
		if err != nil {
			continue
		}
		cert, err := tls.X509KeyPair(chain, key)
		if err != nil {
			m.log.Warn("a stored certificate cannot be used", "name", name, "authority", a.ca.Name, "err", err)
			continue
		}
		if best == nil || cert.Leaf.NotBefore.After(best.Leaf.NotBefore) {
			best, issuer = &cert, a
		}
	}
	return best, issuer
}

// remember stores the history of s, if it has one.
func (m *Manager) remember(ctx context.Context, s *subject, h history) {
	raw, err := json.Marshal(h)
	switch {
	case h.Tried.IsZero():
		err = m.store.Delete(ctx, s.historyKey())
	case err == nil:
		err = m.store.Store(ctx, s.historyKey(), raw)
	}
	if err != nil {
		m.log.Warn("the outcome of an attempt could not be stored", "name", s.name, "err", err)
	}
}

// forget ends what runs for s. What is stored stays, for the case that the name
// comes back. The Manager's mu is held.
func (s *subject) forget(m *Manager) {
	s.gone = true
	if s.cancel != nil {
		s.cancel()
	}
	m.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: s.name}})
}

// renewAt is when the certificate is to be renewed: as its authority says, else
// with a third of its life left. In any case some of its life is kept for what
// may go wrong.
func (s *subject) renewAt() time.Time {
	leaf := s.cert.Load().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at := leaf.NotAfter.Add(-life / 3)
	if s.ari.HasWindow() {
		at = s.ari.SelectedTime
	}
	if latest := leaf.NotAfter.Add(-life / 20); at.After(latest) {
		return latest
	}
	return at
}

// times are those that tests shorten.
type times struct {
	first   time.Duration // from the first failure to the next attempt, doubled with each
	most    time.Duration // at most
	attempt time.Duration // one attempt, at all authorities
	staple  time.Duration // between looks at OCSP
	clean   time.Duration // between looks at what is expired in the store
	byHand  time.Duration // between attempts that a person asks for
	ari     time.Duration // least time between questions about a renewal
	workers int           // attempts at once: an order is mostly waiting, and authorities limit them
	without []string      // challenges that are not used

	probeHTTP, probeTLS uint16 // ports that Reach asks
}

func defaultTimes() times {
	return times{
		first: time.Minute, most: 6 * time.Hour, attempt: 15 * time.Minute, staple: time.Hour,
		clean: 24 * time.Hour, byHand: time.Minute, ari: time.Hour, workers: 4,
		probeHTTP: 80, probeTLS: 443,
	}
}

// delay is how long to wait after n failures in a row. It varies a little, so that
// names that failed together are not tried together for ever.
func (t *times) delay(n int) time.Duration {
	d := t.first
	for range n - 1 {
		if d *= 2; d >= t.most {
			d = t.most
			break
		}
	}
	return d + rand.N(d/8+1)
}

// begun is what is stored of h while an attempt runs.
func (h history) begun(now time.Time) history {
	h.Tried = now
	h.Cut++
	return h
}

// succeeded and failed are what h becomes after an attempt.
func (h history) succeeded(now time.Time) history {
	issued := append(slices.Clone(h.Issued), now)
	return history{Tried: now, Issued: issued[max(0, len(issued)-maxIssued):]}
}

func (h history) failed(now time.Time, wait time.Duration, limits map[string]time.Time, limited time.Time, err error) history {
	h.Failures++
	h.Tried, h.Limits, h.Cut = now, limits, 0
	if h.Retry = now.Add(wait); limited.After(h.Retry) {
		h.Retry = limited
	}
	h.Error, h.Advice = explain(err)
	return h
}
