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
	CutByProxy   = "proxy" // by a fault of its own
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

// Trace is the last requests to one route.
type Trace struct {
	Entries []TraceEntry // newest first
	Kept    int          // entries there are, returned or not
	// Dropped counts, since tracing was switched on, entries that were forgotten
	// early, because all routes together kept too much.
	Dropped int64
}

// ExplainRequest is a request that is only looked at.
type ExplainRequest struct {
	URL     string     // absolute, http or https
	Method  string     // empty: GET
	Address netip.Addr // that the connection comes from
	Headers []HeaderField
	// ClientCertificate is what the client shows in its handshake if it is asked to:
	// PEM, its own first; empty is none. Instead of one, HasCertificate says that it
	// has one that is in order.
	ClientCertificate string
	HasCertificate    bool
}

// Explanation is what the proxy would do with a request.
type Explanation struct {
	Route RouteID // 0: none matched, or the admin host
	Host  string  // of what matched, normalised; empty: nothing did
	Admin bool

	// Steps are those that are on for the route, in their order. All of them are
	// asked, also those behind one that refuses.
	Steps   []ExplainedStep
	Refused string // the first of Steps that refuses; empty: none does
	Status  int    // of the proxy's own answer; 0: the backend answers

	// What would be forwarded if no step refused; empty where the proxy answers
	// anyhow.
	Targets []ExplainedTarget
	Head    string // that the backend would get
}

// ExplainedStep is what one step decides.
type ExplainedStep struct {
	Name   string
	Passes bool
	Status int    // of the refusal
	Reason string // for either
}

// ExplainedTarget is a backend that may get the request.
type ExplainedTarget struct {
	Addr netip.AddrPort
	Peer string // its name; may be empty
	TLS  bool
}
