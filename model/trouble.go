package model

import "time"

// TroubleCode names what is in the way of a tunnel. Codes are stable.
type TroubleCode string

// What can be in the way, as far as this server can tell.
const (
	// TroublePort: the UDP port is closed, so that no peer is heard.
	TroublePort TroubleCode = "tunnel_port_closed"

	// TroubleUnsent: the system of this server does not send messages to the peer.
	TroubleUnsent TroubleCode = "peer_unreachable"

	// TroubleForged: what comes as the peer's answer to handshakes is not authentic.
	TroubleForged TroubleCode = "peer_answers_not_authentic"

	// TroubleClock: the peer's handshakes carry times that are not after those of
	// its last ones, and are refused.
	TroubleClock TroubleCode = "peer_clock_behind"

	// TroubleUnconfirmed: the peer begins handshakes and does not end them.
	TroubleUnconfirmed TroubleCode = "peer_unconfirmed"
)

// Trouble is what has been in the way for a while.
type Trouble struct {
	Code   TroubleCode // empty: nothing is
	Since  time.Time
	Detail string // what the system said, empty if it was not asked
}
