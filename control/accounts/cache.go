package accounts

import (
	"sync"
	"time"

	"gatecontrol/model"
)

// cache keeps decoded records of valid credentials, so it holds at most as many
// entries as there are rows. What it returns is shared and never written. The
// zero value is ready to use.
type cache[K comparable, V any] struct {
	mu         sync.RWMutex
	generation uint64 // moves on with each clear
	entries    map[K]V
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.entries[k]
	return v, ok
}

// load returns the entry of k, from find if need be. What find read before a
// clear does not stay: the clear may stand for a change that find did not see.
func (c *cache[K, V]) load(k K, find func() (V, error)) (V, error) {
	if v, ok := c.get(k); ok {
		return v, nil
	}
	c.mu.RLock()
	generation := c.generation
	c.mu.RUnlock()
	v, err := find()
	if err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		if c.entries == nil {
			c.entries = make(map[K]V)
		}
		c.entries[k] = v
	}
	return v, nil
}

// clear follows every committed write of the table.
func (c *cache[K, V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	clear(c.entries)
}

// seen remembers the last use of sessions and tokens until it is written down.
// The zero value is ready to use.
type seen struct {
	mu       sync.Mutex
	sessions map[model.SessionID]time.Time
	tokens   map[model.TokenID]time.Time
}

func (u *seen) session(id model.SessionID, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sessions == nil {
		u.sessions = make(map[model.SessionID]time.Time)
	}
	u.sessions[id] = at
}

func (u *seen) sessionAt(id model.SessionID) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sessions[id]
}

func (u *seen) token(id model.TokenID, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tokens == nil {
		u.tokens = make(map[model.TokenID]time.Time)
	}
	u.tokens[id] = at
}

func (u *seen) tokenAt(id model.TokenID) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tokens[id]
}

// take returns a copy of what was noted. It stays noted until drop, so that no
// reader sees a gap while it is being written.
func (u *seen) take() (map[model.SessionID]time.Time, map[model.TokenID]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	sessions := make(map[model.SessionID]time.Time, len(u.sessions))
	for id, at := range u.sessions {
		sessions[id] = at
	}
	tokens := make(map[model.TokenID]time.Time, len(u.tokens))
	for id, at := range u.tokens {
		tokens[id] = at
	}
	return sessions, tokens
}

// drop forgets what has been written and not been renewed since.
func (u *seen) drop(sessions map[model.SessionID]time.Time, tokens map[model.TokenID]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range sessions {
		if u.sessions[id].Equal(at) {
			delete(u.sessions, id)
		}
	}
	for id, at := range tokens {
		if u.tokens[id].Equal(at) {
			delete(u.tokens, id)
		}
	}
}
