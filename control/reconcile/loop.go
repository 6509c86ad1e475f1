package reconcile

import (
	"context"
	"time"
)

// Bounds of the wait between two tries to apply what was left out: a port that
// another process held is taken soon after it is free, without a busy loop.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
)

// Apply brings the planes to the stored state. Peers and routes that cannot be
// applied are left out; Conditions tells which, and why.
func (r *Reconciler) Apply(ctx context.Context) error { return r.DB.Apply(ctx) }

// Run applies again, with growing pauses, as long as something is left out. It
// returns when ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	wait := firstRetry
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if !r.incomplete() {
			wait = firstRetry
			continue
		}
		if err := r.Apply(ctx); err != nil {
			r.Log.Error("the stored state cannot be applied", "err", err)
		}
		if wait = min(2*wait, lastRetry); !r.incomplete() {
			r.Log.Info("every stored peer and route serves again")
		}
	}
}

func (r *Reconciler) incomplete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.skipped) > 0 || r.state != nil && len(r.state.leftOut) > 0 // what cannot be read does not heal
}
