package proxy

import "sync/atomic"

// budget bounds what requests hold of something, over all clients.
type budget struct{ left atomic.Int64 }

// take takes n, whoever asks, and reports false if that is not left.
func (b *budget) take(n int64) bool {
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

func (b *budget) give(n int64) { b.left.Add(n) }

// share is what one client holds of a budget. A client can be slow for as long as it
// likes, so it never has more than a third of what is left to the others: the first a
// quarter of all, the next a quarter of the rest. Those that come late have less, but
// it takes as many addresses as that to leave them nothing.
type share struct {
	of   *budget
	mine *atomic.Int64
}

// take takes n, and reports false if that is too much.
func (s share) take(n int64) bool {
	if left := s.of.left.Add(-n); left >= 3*s.mine.Add(n) {
		return true
	}
	s.give(n)
	return false
}

func (s share) give(n int64) {
	s.mine.Add(-n)
	s.of.give(n)
}
