package model

import (
	"net/netip"
	"time"
)

// Statuses of an AccessRecord that no client has seen.
const (
	StatusDropped    = 444 // the connection was ended on purpose, without an answer
	StatusClientLeft = 499 // the client left before there was an answer
)

// How the answer of an AccessRecord ended early.
const (
	CutByClient  = "client"
	CutByBackend = "backend"
)

// AccessRecord is one request to the proxy and what became of it. Its slices are
// valid during the call that hands it over, and hold what the client sent, with
// secrets of the target masked.
type AccessRecord struct {
	ID       [16]byte // shown in hexadecimal
	At       time.Time
	Duration time.Duration // until the answer had ended
	Status   int           // of the answer, or one of those above
	Size     int64         // bytes of the answer's body
	Remote   netip.Addr    // of the connection

	Proto     string // such as HTTP/1.1
	TLS       bool
	Host      []byte
	Method    []byte
	URI       []byte // path and query
	UserAgent []byte

	Route    RouteID        // 0: none, or the admin host
	Upstream netip.AddrPort // invalid: no backend was chosen
	Refused  string         // the step that refused it; empty: none
	Reason   string         // why
	Cut      string         // by whom the answer was ended early; empty: it was complete
}

// TraceEntry is one request in the trace of a route.
type TraceEntry struct {
	ID        string
	At        time.Time
	Method    string
	URI       string // path and query as received, secrets masked; long ones are cut
	Remote    netip.Addr
	Host      string
	UserAgent string
	Status    int // 0 while it runs
	Size      int64
	Refused   string // the step that refused it; empty: none
}
