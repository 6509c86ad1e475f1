package proxy

import (
	"errors"
	"io"
	"slices"
	"time"
)

const (
	maxHeld = 1 << 20 // longest body that is kept to be sent again
	// heldBudget bounds what is kept of all requests; what finds no room is sent
	// once. It is 64 bodies of the longest kind, or 2000 forms.
	heldBudget = 64 << 20
)

// retryLimit is the time after which no further attempt begins.
func retryLimit(count int) time.Duration {
	return max(5*time.Second, time.Duration(count)*2*time.Second)
}

// ask sends the request and reads the head of the final answer, in as many
// attempts as the route has it. The last one counts, whatever it was.
func (ex *exchange) ask(head bool) error {
	rt := ex.route.options.Retry
	if rt == nil || ex.request.upgrade != nil {
		return ex.attempt(head)
	}
	pause := ex.srv.limits.retryPause
	limit := time.Now().Add(retryLimit(rt.Count))
	for n := 0; ; n++ {
		err := ex.attempt(head)
		if n == rt.Count || !ex.mayRepeat(err, rt.Statuses) || time.Now().Add(pause).After(limit) {
			return err
		}
		if err == nil {
			ex.discardAnswer()
		}
		if !ex.pause(pause) {
			return errLeft
		}
		ex.choose()
	}
}

var errLeft = errors.New("the client has left")

// mayRepeat reports whether what came of an attempt calls for another one. What
// was sent may have been acted upon, so it is sent again only if the request says
// the same when said twice (RFC 9110, section 9.2.2).
func (ex *exchange) mayRepeat(err error, statuses []int) bool {
	switch {
	case ex.left.Load(), errors.Is(err, errGatewayAway):
		return false
	case errors.Is(err, errUnreachable):
		return true // nothing was sent
	case !ex.request.replayable:
		return false
	}
	return err != nil || slices.Contains(statuses, ex.answer.status)
}

// discardAnswer ends an attempt whose answer nobody will see.
func (ex *exchange) discardAnswer() {
	bc := ex.bc
	bc.body.reset(&bc.in, ex.answer.framing, ex.answer.length)
	if _, whole := bc.body.take(maxAnswerHead); whole {
		ex.finish()
	} else {
		ex.drop()
	}
}

// pause waits, unless the client leaves; then it reports false.
func (ex *exchange) pause(d time.Duration) bool {
	gone := make(chan struct{}, 1)
	ex.client.Watch(func() {
		ex.left.Store(true)
		select {
		case gone <- struct{}{}:
		default:
		}
	})
	defer ex.client.Unwatch()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-gone:
	}
	return !ex.left.Load()
}

// keeps is what the client has of the budget for bodies.
func (ex *exchange) keeps() share {
	return share{&ex.srv.heldBodies, &ex.client.Tally().heldBodies}
}

// hold reads the body into memory, so that it can be sent again. If it is too
// long, or there is no room, it goes on from what has been read, and only once.
func (ex *exchange) hold() error {
	q := &ex.request
	if ex.held || ex.kept.size > 0 || !q.idempotent || q.length > maxHeld {
		return nil
	}
	for ex.kept.size <= maxHeld {
		room := ex.kept.room(&ex.srv.pieces, ex.keeps())
		if room == nil {
			ex.srv.hits.at(limitHeld)
			return nil
		}
		n, err := ex.body.Read(room)
		ex.kept.added(n)
		ex.copy.add(room[:n])
		if err == io.EOF {
			ex.copy.end()
			ex.held, q.replayable = true, true
			return nil
		}
		if err != nil {
			ex.left.Store(true)
			return err
		}
	}
	return nil
}

// letGo gives back what was held once the backend has got it: an answer may stream
// for hours.
func (ex *exchange) letGo() {
	if len(ex.kept.pieces) == 0 {
		return
	}
	select {
	case <-ex.uploaded:
		ex.kept.release(&ex.srv.pieces, ex.keeps())
	default:
	}
}
