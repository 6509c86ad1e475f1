package netstack

import "gatecontrol/model"

// Status is what the tunnel is doing. Counters are since New.
type Status struct {
	Running    bool
	Trouble    model.Trouble // why it is not, though it was started
	PublicKey  model.PublicKey
	ListenPort uint16 // the actual one, 0 while not running
	Peers      []model.PeerStatus
	Exit       ExitStatus

	FilteredPackets  uint64 // refused by the filter
	CorruptedPackets uint64 // with a wrong checksum inside
	LimitedPackets   uint64 // above the rate of their peer
	FailedPackets    uint64 // whose handler failed
}

// ExitStatus counts the flows that are open through the exit.
type ExitStatus struct {
	HalfOpen  int
	TCPFlows  int
	UDPFlows  int
	EchoFlows int
}

// Recall tells what was known of peers before a restart. Those with a keepalive
// that have not been heard since are greeted where they were, so that traffic
// resumes before they notice: a peer that only listens would take minutes.
func (d *Device) Recall(memories map[model.PublicKey]model.PeerMemory) {
	for key, m := range memories {
		if !m.Stamped.IsZero() {
			d.wg.StampAfter(m.Stamped)
		}
		if p := d.wg.Lookup(key); p != nil && m.Endpoint.IsValid() && !p.Status().Endpoint.IsValid() {
			p.SetEndpoint(m.Endpoint)
		}
	}
}

// Running reports whether the device takes packets. It costs nothing.
func (d *Device) Running() bool {
	return d.running.Load() && d.wg.Trouble().Code == ""
}

// Status reads the device. Peers are in the order of the config. It takes time
// in proportion to their number and disturbs no traffic.
func (d *Device) Status() Status {
	trouble := d.wg.Trouble()
	running := d.running.Load() && trouble.Code == ""
	s := Status{
		Running: running, Trouble: trouble, PublicKey: d.key, Exit: d.exit.status(),
		FilteredPackets:  d.hub.filtered.Load(),
		CorruptedPackets: d.hub.corrupted.Load(),
		LimitedPackets:   d.hub.limited.Load(),
		FailedPackets:    d.hub.panics.Load() + d.wg.Panics(),
	}
	if running {
		s.ListenPort = d.wg.Port()
	}
	t := d.table.Load()
	s.Peers = make([]model.PeerStatus, 0, len(t.peers))
	for _, p := range t.peers {
		ps := model.PeerStatus{
			PublicKey: p.PublicKey, HasPresharedKey: !p.PresharedKey.IsZero(),
			AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive,
		}
		if p.wg != nil {
			w := p.wg.Status()
			ps.Endpoint, ps.LastHandshake = w.Endpoint, w.LastHandshake
			ps.RxBytes, ps.TxBytes = w.RxBytes, w.TxBytes
			ps.RxPackets, ps.TxPackets = w.RxPackets, w.TxPackets
			ps.Stamped, ps.Trouble = w.Stamped, w.Trouble
		}
		s.Peers = append(s.Peers, ps)
	}
	return s
}
