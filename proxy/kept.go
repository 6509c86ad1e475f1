package proxy

// keptBudget bounds what is kept of bodies for backends that do not take them, on all
// connections of HTTP/2: the windows of each bound what a client can have kept on one,
// and this what strangers do with thousands. A stream that would go beyond is reset. It
// is a thousand windows that are full, and a backend that reads a moment later empties
// one.
const keptBudget = 256 << 20

// kept is what is kept of the bodies of a client.
func (s *Server) kept(t *tally) share { return share{&s.bodies, &t.bodies} }
