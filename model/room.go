package model

import "sync/atomic"

// Room bounds the sockets that strangers and peers can make this process hold, of all
// planes together: no limit of one of them keeps descriptors free that others need. The
// newest finds no room; whoever is inside stays. It may be used from many goroutines at
// once. A nil one has room for everything.
type Room struct {
	size  int64
	taken atomic.Int64
}

// NewRoom returns room for size sockets.
func NewRoom(size int) *Room { return &Room{size: int64(size)} }

// Take takes room for n, or reports false if that is not left.
func (r *Room) Take(n int) bool {
	if r == nil || r.taken.Add(int64(n)) <= r.size {
		return true
	}
	r.taken.Add(int64(-n))
	return false
}

// Add takes room for n whether there is any or not: for what belongs to somebody who is
// inside.
func (r *Room) Add(n int) {
	if r != nil {
		r.taken.Add(int64(n))
	}
}

// Give gives back room for n.
func (r *Room) Give(n int) { r.Add(-n) }

// Taken is how much is taken.
func (r *Room) Taken() int {
	if r == nil {
		return 0
	}
	return int(r.taken.Load())
}
