package wireguard

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
)

// index finds the peer and the session of a message by the number that this
// side gave to its handshake. Numbers are random, so that a stranger cannot
// guess which are in use. All have tag as their highest byte, by which the kernel
// keeps most of what was made up away from the sessions' socket.
type index struct {
	tag     byte
	mu      sync.RWMutex
	entries map[uint32]entry
}

func newIndex() index {
	var tag [1]byte
	_, _ = rand.Read(tag[:]) // never fails
	return index{tag: tag[0], entries: make(map[uint32]entry)}
}

// entry is a handshake that waits for its answer, or a session.
type entry struct {
	peer    *Peer
	session *session // nil for a handshake
}

// add gives out a number.
func (x *index) add(e entry) uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		var b [4]byte
		_, _ = rand.Read(b[:3])
		b[3] = x.tag
		n := binary.LittleEndian.Uint32(b[:])
		if _, taken := x.entries[n]; !taken {
			x.entries[n] = e
			return n
		}
	}
}

// set changes what a number stands for, if it is still given out.
func (x *index) set(n uint32, e entry) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, found := x.entries[n]
	if found {
		x.entries[n] = e
	}
	return found
}

func (x *index) remove(n uint32) {
	x.mu.Lock()
	delete(x.entries, n)
	x.mu.Unlock()
}

func (x *index) lookup(n uint32) entry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.entries[n]
}
