package netstack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/wireguard"
)

// link joins the stack to the hub. It is the interface's own queueing
// discipline as well: there is no queue.
//
// The stack hands over TCP in segments of up to superSegment bytes, which the
// hub cuts where it copies them anyway. So the stack works by the 60 KiB and
// not by the packet, and one system call carries all of them.
type link struct {
	hub      *hub
	mtu      uint32
	dispatch atomic.Pointer[stack.NetworkDispatcher] // nil while not attached
}

var (
	_ stack.LinkEndpoint       = (*link)(nil)
	_ stack.QueueingDiscipline = (*link)(nil)
	_ stack.GSOEndpoint        = (*link)(nil)
)

// inject gives a packet of a peer to the stack, and its reference.
func (l *link) inject(pkt *stack.PacketBuffer) {
	if d := l.dispatch.Load(); d != nil {
		(*d).DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
	}
	pkt.DecRef()
}

// WritePacket takes one packet of the stack.
func (l *link) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	l.hub.transmit(pkt)
	return nil
}

// WritePackets takes several.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		l.hub.transmit(pkt)
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

// GSOMaxSize returns what the stack takes for the size of the largest packet, in
// bytes: as many full segments as leave in one burst, without a small one behind
// them, and the headers that the stack leaves room for.
func (l *link) GSOMaxSize() uint32 { return uint32(superPayload(int(l.mtu))) + gsoReserve }

// gsoReserve is how much of GSOMaxSize the stack keeps for headers
// (header.TCPTotalHeaderMaximumSize and a byte).
const gsoReserve = header.TCPTotalHeaderMaximumSize + 1

// maxOptions is how many bytes of TCP options the stack leaves room for in every
// segment: all that there can be.
const maxOptions = 40

// segmentPayload returns the payload of a full TCP segment of the stack over IPv4,
// in bytes. Over IPv6 it is 20 less, so that a small one follows each burst there.
func segmentPayload(mtu int) int { return mtu - ipv4Header - tcpHeader - maxOptions }

// superPayload returns the payload of the largest packet of the stack, in bytes.
func superPayload(mtu int) int {
	segment := segmentPayload(mtu)
	const padding, timestamps = 16, 12
	message := (segment+ipv4Header+tcpHeader+timestamps+padding-1)&^(padding-1) + wireguard.Overhead
	return min(wireguard.MaxBurst/message*segment, maxIPPacket-gsoReserve)
}

// SupportedGSO says that segments of TCP may be larger than the MTU.
func (*link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

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

// Capabilities says that checksums need not be verified: the coalescer has done
// so, and a large packet that it made has none of its own.
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
