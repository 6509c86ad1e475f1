package proxy

// Receive windows are what a client may have under way towards us, and so what has to
// be kept of it if the backend stops reading. They begin small and grow where a client
// is held up by them and the backend is not: over a long way a body is as fast as its
// window in a round trip.
const (
	streamWindowMost = 4 << 20 // of a stream: 40 MB/s over 100 ms
	connWindowMost   = 8 << 20 // of all streams of a connection

	// growthBudget bounds what the windows of all connections grow by. It is lent
	// until a connection ends, for windows that were given cannot be taken back. When
	// it is used up, bodies are as fast as first windows allow.
	growthBudget = 64 << 20

	// keptBudget bounds what is kept of bodies for backends that do not take them, on
	// all connections of HTTP/2: what strangers do with thousands of first windows is
	// bounded, too. A stream that would go beyond is reset. It is a thousand windows
	// that are full, and a backend that reads a moment later empties one.
	keptBudget = 256 << 20
)

// growth is what the windows of a client have grown by.
func (s *Server) growth(t *tally) share { return share{&s.windows, &t.windows} }

// kept is what is kept of the bodies of a client.
func (s *Server) kept(t *tally) share { return share{&s.bodies, &t.bodies} }
