package proxy

// Receive windows are what a client may have under way towards us, and so what has to
// be kept of it if the backend stops reading. They begin small and grow where a client
// is held up by them and the backend is not: over a long way a body is as fast as its
// window in a round trip. What they grow by is lent, for windows that were given
// cannot be taken back before the connection ends.
const (
	// growthBudget bounds what the windows of all connections grow by, and with it
	// what strangers can have kept beyond the first windows. When it is used up,
	// bodies are as fast as those allow.
	growthBudget = 64 << 20
	// growthShare bounds the same for one client address.
	growthShare = growthBudget / 4

	// keptBudget bounds what is kept of bodies for backends that do not take them, on
	// all connections of HTTP/2: what strangers do with thousands of first windows is
	// bounded, too. A stream that would go beyond is reset. It is a thousand windows
	// that are full, and a backend that has read a moment later empties one.
	keptBudget = 256 << 20
	// keptShare bounds the same for one client address.
	keptShare = keptBudget / 4

	streamWindowMost = 4 << 20 // of a stream: 40 MB/s over 100 ms
	connWindowMost   = 8 << 20 // of all streams of a connection
)

// hold admits n bytes of a body that are kept for its backend, which unhold ends.
func (s *Server) hold(t *tally, n int64) bool {
	if t.kept.Add(n) <= keptShare && s.kept.take(n) {
		return true
	}
	t.kept.Add(-n)
	return false
}

func (s *Server) unhold(t *tally, n int64) {
	t.kept.Add(-n)
	s.kept.give(n)
}

// lend lets the windows of a client grow by n, which reclaim ends.
func (s *Server) lend(t *tally, n int64) bool {
	if t.grown.Add(n) <= growthShare && s.growth.take(n) {
		return true
	}
	t.grown.Add(-n)
	return false
}

func (s *Server) reclaim(t *tally, n int64) {
	t.grown.Add(-n)
	s.growth.give(n)
}
