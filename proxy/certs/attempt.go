package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"time"
)

// attempt is one try to get the certificate of a subject, at one authority after
// the other. It travels in the context of the try.
type attempt struct {
	zone     *Zone                // that proves the name; nil: over HTTP or TLS
	limits   map[string]time.Time // by key of an authority, until when it is left alone; not changed
	replaces *x509.Certificate    // that this is a renewal of
	issuer   *authority           // of that

	mu     sync.Mutex
	asking string // key of the authority that is asked now
	until  map[string]time.Time
	errs   []caError
}

// caError is what came of asking one authority.
type caError struct {
	ca  string
	err error
}

type attemptKey struct{}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

func (a *attempt) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

func (a *attempt) asks(ca *authority) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asking = ca.key
}

// wait notes until when the authority that is asked now wants to be left alone.
// That holds for this subject: most limits are of one name, and one of all names
// costs each of them one question.
func (a *attempt) wait(until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asking == "" {
		return
	}
	if a.until == nil {
		a.until = make(map[string]time.Time)
	}
	if until.After(a.until[a.asking]) {
		a.until[a.asking] = until
	}
}

func (a *attempt) failed(ca *authority, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs = append(a.errs, caError{ca.ca.Name, err})
}

// outcome is what is known after the try: nil, or the errors of all authorities
// that were asked in one. err is what certmagic says; it has the last one alone.
func (a *attempt) outcome(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || len(a.errs) == 0 {
		return err
	}
	return &attemptError{a.errs}
}

// next is the least time at which an authority can be asked again: with one that
// failed for another reason, that is now.
func (a *attempt) next(before map[string]time.Time, cas []*authority, now time.Time) (limits map[string]time.Time, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	limits = make(map[string]time.Time)
	for _, m := range [...]map[string]time.Time{before, a.until} {
		for key, until := range m {
			if until.After(now) && until.After(limits[key]) {
				limits[key] = until
			}
		}
	}
	for i, ca := range cas {
		until := limits[ca.key]
		if until.IsZero() {
			return limits, time.Time{}
		}
		if i == 0 || until.Before(at) {
			at = until
		}
	}
	return limits, at
}

// attemptError is a try that failed at every authority.
type attemptError struct{ errs []caError }

func (e *attemptError) Error() string {
	parts := make([]string, len(e.errs))
	for i, c := range e.errs {
		parts[i] = fmt.Sprintf("%s: %v", c.ca, c.err)
	}
	return strings.Join(parts, "; ")
}

func (e *attemptError) Unwrap() []error {
	errs := make([]error, len(e.errs))
	for i, c := range e.errs {
		errs[i] = c.err
	}
	return errs
}
