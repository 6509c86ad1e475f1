package netstack

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvipv4 "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = 1 // the only interface of the stack

	// TCP buffers grow to what one flow needs: 8 MiB fill 640 Mbit/s at a round
	// trip of 100 ms. An idle connection holds none of it.
	tcpReceiveMax = 8 << 20
	tcpSendMax    = 6 << 20
	tcpBufferMin  = 4 << 10
	tcpBufferInit = 1 << 20

	// Keepalive of TCP in the tunnel: a peer that has gone is noticed after two
	// minutes. The stack's own default is two hours.
	keepaliveIdle     = 60 * time.Second
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 4

	// tcpTimeWait is shorter than the customary 60 s, because segments do not
	// linger in a tunnel and a port of ours in that state cannot dial the same
	// target again.
	tcpTimeWait = 10 * time.Second
)

// newStack builds the network stack of this server: one interface with the
// tunnel address, which also takes packets for every other address, so that
// the exit can answer for them.
func newStack(h *hub, addr netip.Addr, mtu int) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{gvipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		HandleLocal:        false, // with every address taken for ours, all sources would seem forged
	})
	if err := setUp(s, h, addr, mtu); err != nil {
		s.Destroy()
		return nil, err
	}
	return s, nil
}

func setUp(s *stack.Stack, h *hub, addr netip.Addr, mtu int) error {
	var (
		sack = tcpip.TCPSACKEnabled(true)
		// Measured at 3 % loss, 2 MiB: with the stack's RACK transfers hang, with
		// its cubic they take 4 to 7 s and dozens of timeouts, with this 0.2 to 0.7 s.
		recovery   = tcpip.TCPRecovery(0)
		congestion = tcpip.CongestionControlOption("reno")
		moderate   = tcpip.TCPModerateReceiveBufferOption(true)
		receive    = tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferInit, Max: tcpReceiveMax}
		send       = tcpip.TCPSendBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferInit, Max: tcpSendMax}
		timeWait   = tcpip.TCPTimeWaitTimeoutOption(tcpTimeWait)
	)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &congestion, &moderate, &receive, &send, &timeWait} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set %T: %s", option, err)
		}
	}
	l := &link{hub: h, mtu: uint32(mtu)}
	h.inject = l.inject
	if err := s.CreateNICWithOptions(nicID, l, stack.NICOptions{Name: "hub", QDisc: l}); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	own := tcpip.ProtocolAddress{
		Protocol:          gvipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFrom4(addr.As4()).WithPrefix(),
	}
	if err := s.AddProtocolAddress(nicID, own, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("add address %s: %s", addr, err)
	}
	s.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nicID})
	if err := s.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("take packets for other addresses: %s", err)
	}
	if err := s.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("answer for other addresses: %s", err)
	}
	return nil
}

// link joins the stack to the hub. It is the interface's own queueing
// discipline as well: the hub has the queue.
type link struct {
	hub      *hub
	mtu      uint32
	dispatch atomic.Pointer[stack.NetworkDispatcher] // nil while not attached
}

var (
	_ stack.LinkEndpoint       = (*link)(nil)
	_ stack.QueueingDiscipline = (*link)(nil)
)

// inject copies an IPv4 packet into the stack.
func (l *link) inject(packet []byte) {
	d := l.dispatch.Load()
	if d == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer pkt.DecRef()
	(*d).DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
}

// WritePacket takes one packet of the stack.
func (l *link) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if !l.hub.send(pkt) {
		return &tcpip.ErrClosedForSend{}
	}
	return nil
}

// WritePackets takes several.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		if err := l.WritePacket(pkt); err != nil {
			return i, err
		}
	}
	return pkts.Len(), nil
}

// Attach connects the stack, or disconnects it if d is nil.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatch.Store(nil)
		return
	}
	l.dispatch.Store(&d)
}

// What follows says that there is no layer below: no header, no address, and
// nothing to wait for.

func (l *link) IsAttached() bool                      { return l.dispatch.Load() != nil }
func (l *link) MTU() uint32                           { return l.mtu }
func (*link) SetMTU(uint32)                           {}
func (*link) MaxHeaderLength() uint16                 { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress          { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) AddHeader(*stack.PacketBuffer)           {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) SetOnCloseAction(func())                 {}
func (*link) Wait()                                   {}
func (*link) Close()                                  {}

// Capabilities lets the stack skip checksums of TCP and UDP on receipt:
// WireGuard has authenticated the packet. A peer can only harm itself by
// sending wrong ones.
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
