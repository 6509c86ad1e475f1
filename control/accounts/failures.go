package accounts

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// maxFailureKinds bounds the different failures that wait to be written; what is
// beyond is counted together.
const maxFailureKinds = 256

// failureLog collects failed sign-ins for the activity log, so that a stranger
// who guesses neither waits for nor causes a sync per guess. Equal ones are
// counted, not repeated.
type failureLog struct {
	ready chan struct{} // capacity 1: something waits

	mu     sync.Mutex
	counts map[failure]int
	order  []failure
}

type failure struct {
	typ  string // login_failed or account_locked
	name string // of the account; "" if no account has the name that was given
	addr netip.Addr
}

func (f *failureLog) add(e failure) {
	f.mu.Lock()
	if f.counts == nil {
		f.counts = make(map[failure]int)
	}
	if f.counts[e] == 0 && len(f.order) >= maxFailureKinds {
		e = failure{typ: e.typ}
	}
	if f.counts[e]++; f.counts[e] == 1 {
		f.order = append(f.order, e)
	}
	f.mu.Unlock()
	f.wake()
}

func (f *failureLog) wake() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

func (f *failureLog) take() ([]failure, map[failure]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	order, counts := f.order, f.counts
	f.order, f.counts = nil, nil
	return order, counts
}

func (e failure) entry(n int) events.Entry {
	who := "an unknown user"
	if e.name != "" {
		who = e.name
	}
	if e.typ == "account_locked" {
		return events.Entry{Type: e.typ, Severity: model.SeverityWarning,
			Message: fmt.Sprintf("Sign-in of %s is locked for %d minutes after %d failed attempts", who, int(lockWindow.Minutes()), maxAttempts)}
	}
	message := "Failed sign-in of " + who
	if n > 1 {
		message += fmt.Sprintf(" (%d times)", n)
	}
	return events.Entry{Type: e.typ, Severity: model.SeverityWarning, Message: message}
}

// FlushFailures writes failed sign-ins and their events in one transaction.
// Events of a write that failed are lost, the counts are not.
func (s *Service) FlushFailures(ctx context.Context) error {
	order, counts := s.failed.take()
	dirty := s.lockout.dirty()
	if len(order) == 0 && len(dirty) == 0 {
		return nil
	}
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		for _, e := range order {
			actor := model.WithActor(ctx, model.Actor{Name: e.name, Addr: e.addr})
			if err := events.Append(actor, tx, s.now(), e.entry(counts[e])); err != nil {
				return err
			}
		}
		return s.lockout.write(tx, dirty)
	})
	if err != nil {
		s.lockout.unwritten(dirty)
		return fmt.Errorf("write failed sign-ins: %w", err)
	}
	return nil
}
