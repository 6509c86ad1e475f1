package model

import (
	"net/netip"
	"time"
)

// PeerStatus is what the tunnel knows of a live peer.
type PeerStatus struct {
	PublicKey       PublicKey
	HasPresharedKey bool
	Endpoint        netip.AddrPort // invalid: not heard yet
	AllowedIPs      []netip.Prefix
	LastHandshake   time.Time // zero: none yet
	RxBytes         uint64    // received from the peer since the device started
	TxBytes         uint64    // sent to the peer since the device started
	RxPackets       uint64    // the same in packets
	TxPackets       uint64
	Keepalive       uint16    // seconds, 0 is off
	Stamped         time.Time // the latest time in handshakes that this server began, by its clock; zero: none
	Trouble         Trouble   // what is in the way of its tunnel
}

// Online reports whether the last handshake is young enough at the time now.
func (s *PeerStatus) Online(now time.Time) bool {
	return !s.LastHandshake.IsZero() && now.Sub(s.LastHandshake) < OnlineWindow
}

// PeerCounters are sums over restarts.
type PeerCounters struct {
	ID             PeerID    `json:"id"`
	TotalRx        uint64    `json:"total_rx"` // bytes received from the peer
	TotalTx        uint64    `json:"total_tx"` // bytes sent to the peer
	TotalRxPackets uint64    `json:"total_rx_packets,omitempty"`
	TotalTxPackets uint64    `json:"total_tx_packets,omitempty"`
	LastHandshake  time.Time `json:"last_handshake"`
	Months         Months    `json:"months,omitempty"` // bytes in both directions together

	Endpoint netip.AddrPort `json:"endpoint,omitzero"` // where the peer was heard last
	Stamped  time.Time      `json:"stamped,omitzero"`  // the latest time in handshakes that this server began
}

// Add counts t.
func (c *PeerCounters) Add(t PeerTraffic) {
	c.TotalRx += t.RxBytes
	c.TotalTx += t.TxBytes
	c.TotalRxPackets += t.RxPackets
	c.TotalTxPackets += t.TxPackets
	if !t.LastHandshake.IsZero() {
		c.LastHandshake = t.LastHandshake.UTC()
	}
	if t.Endpoint.IsValid() {
		c.Endpoint = t.Endpoint
	}
	if t.Stamped.After(c.Stamped) {
		c.Stamped = t.Stamped.UTC()
	}
	c.Months = c.Months.Plus(t.Months)
}

// RouteCounters are sums over restarts.
type RouteCounters struct {
	ID          RouteID `json:"id"`
	BotsBlocked uint64  `json:"bots_blocked"` // requests that its bot blocker refused
}

// PeerTraffic is what a peer moved over some time.
type PeerTraffic struct {
	RxBytes, RxPackets uint64         // received from the peer
	TxBytes, TxPackets uint64         // sent to the peer
	Months             Months         // bytes in both directions together
	LastHandshake      time.Time      // the last one, zero: none
	Endpoint           netip.AddrPort // where it was heard last, invalid: nowhere
	Stamped            time.Time      // the latest time in handshakes with it that this server began, zero: none
}

// Plus returns t and what came after it.
func (t PeerTraffic) Plus(later PeerTraffic) PeerTraffic {
	if later.LastHandshake.IsZero() {
		later.LastHandshake = t.LastHandshake
	}
	if !later.Endpoint.IsValid() {
		later.Endpoint = t.Endpoint
	}
	if t.Stamped.After(later.Stamped) {
		later.Stamped = t.Stamped
	}
	return PeerTraffic{
		RxBytes: t.RxBytes + later.RxBytes, RxPackets: t.RxPackets + later.RxPackets,
		TxBytes: t.TxBytes + later.TxBytes, TxPackets: t.TxPackets + later.TxPackets,
		Months: t.Months.Plus(later.Months), LastHandshake: later.LastHandshake, Endpoint: later.Endpoint, Stamped: later.Stamped,
	}
}

// PeerMemory is what a server that was restarted has to know of a peer for
// traffic to resume.
type PeerMemory struct {
	Endpoint netip.AddrPort // where it was heard lately, invalid: nowhere
	Stamped  time.Time      // a time in handshakes of this server that the peer may have seen, zero: none
}

// TrafficSample is the traffic of all peers over one interval that ends at At.
type TrafficSample struct {
	At            time.Time `json:"at"`
	UploadBytes   uint64    `json:"up"`   // sent to peers
	DownloadBytes uint64    `json:"down"` // received from peers
	Peers         int       `json:"peers"`
}
