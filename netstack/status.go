package netstack

import "gatecontrol/model"

// Status is what the tunnel is doing. Counters are since New.
type Status struct {
	Running    bool
	PublicKey  model.PublicKey
	ListenPort uint16 // the actual one, 0 while not running
	Peers      []model.PeerStatus
	Exit       ExitStatus

	FilteredPackets   uint64 // refused by the filter
	OverflowedPackets uint64 // lost because a queue was full
	FailedPackets     uint64 // lost because their handler failed
}

// ExitStatus counts the flows that are open through the exit.
type ExitStatus struct {
	HalfOpen int
	TCPFlows int
	UDPFlows int
}

// Running reports whether the device takes packets. It costs nothing.
func (d *Device) Running() bool { return d.running.Load() }

// Status reads the device. Peers are in the order of the config. It takes time
// in proportion to their number and disturbs no traffic.
func (d *Device) Status() Status {
	running := d.running.Load()
	s := Status{
		Running: running, PublicKey: d.key, Exit: d.exit.status(),
		FilteredPackets:   d.hub.filtered.Load(),
		OverflowedPackets: d.hub.overflowed.Load(),
		FailedPackets:     d.hub.panics.Load(),
	}
	text, err := d.wg.IpcGet()
	if err != nil {
		d.log.Error("WireGuard does not tell its state", "err", uapiError(err))
		return s
	}
	read, err := parseUAPI(text)
	if err != nil {
		d.log.Error("WireGuard's state cannot be read", "err", err)
		return s
	}
	if running && read.ListenPort != nil {
		s.ListenPort = *read.ListenPort
	}
	live := make(map[model.PublicKey]*uapiPeer, len(read.Peers))
	for i := range read.Peers {
		live[read.Peers[i].PublicKey] = &read.Peers[i]
	}
	t := d.table.Load()
	s.Peers = make([]model.PeerStatus, 0, len(t.peers))
	for _, p := range t.peers {
		ps := model.PeerStatus{
			PublicKey: p.PublicKey, HasPresharedKey: !p.PresharedKey.IsZero(),
			AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive,
		}
		if u := live[p.PublicKey]; u != nil {
			ps.Endpoint, ps.LastHandshake = u.Endpoint, u.LastHandshake
			ps.RxBytes, ps.TxBytes = u.RxBytes, u.TxBytes
		}
		s.Peers = append(s.Peers, ps)
	}
	return s
}
