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
	Keepalive       uint16    // seconds, 0 is off
}

// Online reports whether the last handshake is young enough at the time now.
func (s *PeerStatus) Online(now time.Time) bool {
	return !s.LastHandshake.IsZero() && now.Sub(s.LastHandshake) < OnlineWindow
}

// PeerCounters are sums over restarts.
type PeerCounters struct {
	ID            PeerID    `json:"id"`
	TotalRx       uint64    `json:"total_rx"` // bytes received from the peer
	TotalTx       uint64    `json:"total_tx"` // bytes sent to the peer
	LastHandshake time.Time `json:"last_handshake"`
}

// TrafficSample is the traffic of all peers over one interval that ends at At.
type TrafficSample struct {
	At            time.Time `json:"at"`
	UploadBytes   uint64    `json:"up"`   // sent to peers
	DownloadBytes uint64    `json:"down"` // received from peers
	Peers         int       `json:"peers"`
}
