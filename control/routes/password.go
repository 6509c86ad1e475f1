package routes

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"

	"gatecontrol/model"
)

// hashCost is GateControl's, whose backups carry the hashes. It takes about a
// twentieth of a second.
const hashCost = 10

// bcryptLength is how much of a password bcrypt looks at. Its Go package refuses
// longer ones, GateControl's cuts them.
const bcryptLength = 72

// maxWaitingHashes bounds those who wait for a turn.
const maxWaitingHashes = 32

// hasher hashes passwords, at most one per core at once.
type hasher struct {
	turns   chan struct{}
	waiting *atomic.Int32
}

func newHasher() hasher {
	return hasher{turns: make(chan struct{}, runtime.GOMAXPROCS(0)), waiting: new(atomic.Int32)}
}

// hash hashes the password of a request, if it has one that will be stored: before
// the transaction, in which everybody would wait for it.
func (s *Service) hash(ctx context.Context, in *Access) error {
	password, flag := in.BasicAuthPassword.Value, in.BasicAuthEnabled
	if password == "" || checkPassword(password) != nil || flag.Set && !flag.Null && !flag.Value {
		return nil
	}
	h := &s.hasher
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > maxWaitingHashes {
		return model.Failure(model.KindUnavailable, "too many passwords at once; try again in a moment")
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	sum, err := bcrypt.GenerateFromPassword([]byte(password)[:min(len(password), bcryptLength)], hashCost)
	in.hash = string(sum)
	return err
}
