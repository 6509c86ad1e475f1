package proxy

import "sync/atomic"

// limit is a bound at which something was turned away, or had to go without.
type limit int

const (
	limitConnections limit = iota // of all clients, or of one address
	limitStreams                  // requests of one address in streams
	limitFloodH2                  // a connection that was ended with ENHANCE_YOUR_CALM
	limitFloodH3                  // with H3_EXCESSIVE_LOAD
	limitUpgrades
	limitEncoders // the answer went uncompressed
	limitHeld     // the request could not be sent again
	limitCopied   // the copy was dropped
	limitTarpits  // the bot was refused at once
	limitPasswords
	limitCount // how many there are
)

// limitNames are the words for limits in metrics.
var limitNames = [limitCount]string{
	"connections", "streams", "http2_flood", "http3_flood", "upgrades", "encoders", "held_bodies", "copied_bodies", "tarpits", "password_queue",
}

// hits counts what limits have done since the start.
type hits [limitCount]atomic.Int64

func (h *hits) at(l limit) { h[l].Add(1) }

// Counts are numbers of the proxy: of now, and since the start.
type Counts struct {
	Mirrors MirrorCounts
	// Refused are requests by the step that refused them, Limits what was turned away
	// by the bound that did. Every name is there.
	Refused map[string]int64
	Limits  map[string]int64
	// Windows are the clients that rate limits and wrong passwords keep apart, and
	// Forgotten those that had to begin anew since a table was full.
	Windows, Forgotten map[string]int64

	Connections int // of clients and to backends
	Clients     int // addresses that have one
	Upgrades    int
	Encoders    int
	TraceBytes  int
}

// Counts returns the counts of now.
func (s *Server) Counts() Counts {
	c := Counts{
		Mirrors: s.MirrorCounts(), Refused: make(map[string]int64, len(pipeline)), Limits: make(map[string]int64, limitCount),
		Windows: make(map[string]int64), Forgotten: make(map[string]int64),
	}
	for i, step := range pipeline {
		c.Refused[step.name] = s.refused[i].Load()
	}
	for i, name := range limitNames {
		c.Limits[name] = s.hits[i].Load()
	}
	for name, w := range map[string]*windows{"rate_limit": s.requests, "password": s.logins.failures} {
		c.Windows[name], c.Forgotten[name] = w.count(), w.forgotten.Load()
	}
	c.Encoders = int(maxEncoders - s.encoding.left.Load())
	s.census.mu.Lock()
	c.Connections, c.Clients = s.census.total, len(s.census.clients)
	s.census.mu.Unlock()
	s.upgrades.mu.Lock()
	c.Upgrades = len(s.upgrades.open)
	s.upgrades.mu.Unlock()
	s.traces.mu.Lock()
	c.TraceBytes = s.traces.size
	s.traces.mu.Unlock()
	return c
}
