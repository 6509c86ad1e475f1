// Package accounts knows who may ask for what: the people who administer this
// server, their passwords and sessions, and the tokens of programs. It owns the
// tables users, sessions, tokens and lockouts. Of ours it imports model, store
// and control/events.
//
// Secrets are looked up by their SHA-256 and never stored: a stolen store signs
// nobody in. Passwords are hashed outside of store transactions.
package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// MinSessionMaxAge is the shortest time after which an idle session may end;
// use is written down only that often.
const MinSessionMaxAge = time.Minute

// How often Run does what it does.
const (
	flushFailuresAfter = 500 * time.Millisecond // failed sign-ins reach the disk within 1 s
	flushUseEvery      = time.Minute            // last use of sessions and tokens
	purgeEvery         = 5 * time.Minute        // expired sessions and spent failures
)

// Options are what a Service needs.
type Options struct {
	DB            *store.DB
	Log           *slog.Logger
	SessionMaxAge time.Duration    // idle time after which a session ends; at least a minute
	Language      string           // of a new user; "" is "en"
	Now           func() time.Time // nil is time.Now
}

// Service is the one user of its tables. Its methods may be called from any
// goroutine.
type Service struct {
	db       *store.DB
	log      *slog.Logger
	maxAge   time.Duration
	language string
	now      func() time.Time

	hasher   hasher
	lockout  lockout
	sessions cache[model.SessionID, *SignedIn]
	tokens   cache[string, *Credential] // by hash
	seen     seen
	failed   failureLog
}

// New returns the accounts of o.DB.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil {
		return nil, errors.New("accounts: a store and a logger are required")
	}
	if o.SessionMaxAge < MinSessionMaxAge {
		return nil, model.Invalid("GC_SESSION_MAX_AGE", "must be at least %d milliseconds", MinSessionMaxAge.Milliseconds())
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Language == "" {
		o.Language = "en"
	}
	s := &Service{db: o.DB, log: o.Log, maxAge: o.SessionMaxAge, language: o.Language, now: o.Now}
	s.hasher = newHasher()
	s.lockout = newLockout(o.DB)
	s.failed.ready = make(chan struct{}, 1)
	return s, nil
}

// SessionMaxAge returns the idle time after which a session ends.
func (s *Service) SessionMaxAge() time.Duration { return s.maxAge }

// Run writes down what is kept in memory for a while, and forgets what has
// expired, until ctx ends; then it writes a last time.
func (s *Service) Run(ctx context.Context) error {
	use, purge := time.NewTicker(flushUseEvery), time.NewTicker(purgeEvery)
	defer use.Stop()
	defer purge.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx)
			return errors.Join(s.FlushFailures(ctx), s.FlushUse(ctx))
		case <-s.failed.ready:
			select { // failures come in bursts; one sync for many
			case <-time.After(flushFailuresAfter):
			case <-ctx.Done():
			}
			err = s.FlushFailures(context.WithoutCancel(ctx))
		case <-use.C:
			err = s.FlushUse(ctx)
			// A hash leaves 64 MiB behind, which the collector would keep for minutes.
			if s.hasher.used.Swap(false) {
				debug.FreeOSMemory()
			}
		case <-purge.C:
			err = s.Purge(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("accounts could not be written; it is tried again", "err", err)
		}
	}
}

// Forget drops what is cached. Whoever changes the tables of this package
// behind its back, as a restore does, calls it after the commit.
func (s *Service) Forget() {
	s.sessions.clear()
	s.tokens.clear()
	s.lockout.clear()
}

// hashHex is the form in which credentials are stored and looked up.
func hashHex(secret model.Secret) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// randomHex returns n random bytes as hex.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
