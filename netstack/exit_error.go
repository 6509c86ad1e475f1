package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvipv4 "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// socketError is an ICMP error that this host received about something that
// one of its sockets has sent.
type socketError struct {
	typ, code uint8
	mtu       int        // bytes, for codeFragmentationNeeded; 0 if not known
	from      netip.Addr // who says so; invalid if not known
	about     []byte     // beginning of what was sent: of a datagram its payload, of echo the message
}

// passedOn reports whether peers are told: of what cannot be reached, and of
// routes that are too long, which is how they are traced.
func (e *socketError) passedOn() bool {
	return e.typ == icmpUnreachable || e.typ == icmpTimeExceeded
}

// localError is the ICMP error that fits a failure to send. It reports false
// if peers are not told of it.
func localError(err error) (e socketError, ok bool) {
	errno, _ := err.(syscall.Errno)
	switch errno {
	case syscall.ENETUNREACH:
		return socketError{typ: icmpUnreachable, code: codeNet}, true
	case syscall.EHOSTUNREACH:
		return socketError{typ: icmpUnreachable, code: codeHost}, true
	case syscall.ECONNREFUSED:
		return socketError{typ: icmpUnreachable, code: codePort}, true
	case syscall.EACCES, syscall.EPERM: // a broadcast, a rule of this host's firewall
		return socketError{typ: icmpUnreachable, code: codeProhibited}, true
	}
	return e, false
}

// reported lists how a socket says that an error about earlier packets has
// arrived. It can be used on.
var reported = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMSGSIZE,
	syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.EOPNOTSUPP, syscall.EPROTO,
}

func isReported(err error) bool {
	errno, ok := err.(syscall.Errno)
	return ok && slices.Contains(reported, errno)
}

// takeErrors hands the ICMP errors that a socket has received to f.
func (e *exit) takeErrors(c syscall.RawConn, f func(*socketError)) {
	buf := e.buffers.Get().(*[copyBuffer]byte)
	defer e.buffers.Put(buf)
	for {
		var se socketError
		ok := false
		if c.Control(func(fd uintptr) { se, ok = readError(fd, buf[:]) }) != nil || !ok {
			return
		}
		if se.passedOn() {
			f(&se)
		}
	}
}

// complain sends an ICMP error to a peer. quote is the beginning of the IPv4
// packet of the peer that it is about.
func (e *exit) complain(se *socketError, quote []byte) {
	if !e.d.hub.icmp.Allow() {
		return
	}
	to := netip.AddrFrom4([4]byte(quote[12:16]))
	e.sendICMP(e.speaker(se.from), to, icmpTOS, appendErrorMessage(nil, se.typ, se.code, se.mtu, quote))
}

// speaker is the address from which a peer gets an error that addr has told
// this host: that address, so that routes can be traced, unless it could be
// taken for somebody in the tunnel. It is this server if nobody told.
func (e *exit) speaker(addr netip.Addr) netip.Addr {
	if !addr.Is4() || !unicast4(word(addr)) || e.d.Owns(addr) || e.hosts.contains(addr) {
		return e.d.addr
	}
	return addr
}

// sendICMP sends an ICMP message to a peer, in fragments if it has to be.
func (e *exit) sendICMP(from, to netip.Addr, tos uint8, message []byte) {
	r, terr := e.d.stack.FindRoute(nicID, tcpip.AddrFrom4(from.As4()), tcpip.AddrFrom4(to.As4()), gvipv4.ProtocolNumber, false)
	if terr != nil {
		return
	}
	defer r.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(message),
	})
	defer pkt.DecRef()
	_ = r.WritePacket(stack.NetworkHeaderParams{Protocol: header.ICMPv4ProtocolNumber, TTL: icmpTTL, TOS: tos}, pkt)
}

// quotePacket returns the beginning of a packet, as ICMP errors quote it.
func quotePacket(pkt *stack.PacketBuffer) []byte {
	quote := make([]byte, 0, icmpQuote)
	quote = append(quote, pkt.NetworkHeader().Slice()...)
	payload := stack.PayloadSince(pkt.TransportHeader())
	defer payload.Release()
	return append(quote, payload.AsSlice()[:min(payload.Size(), icmpQuote-len(quote))]...)
}

// hops returns how many routers the packet may still pass.
func hops(pkt *stack.PacketBuffer) uint8 { return header.IPv4(pkt.NetworkHeader().Slice()).TTL() }

// quoteDatagram writes the headers of a datagram with size bytes of payload
// that a peer has sent some time ago.
func quoteDatagram(f *flow, size int) []byte {
	b := make([]byte, 0, ipv4Header+udpHeader)
	b = appendIPv4(b, 0, 1, protoUDP, word(f.src.Addr()), word(f.dst.Addr()), udpHeader+size)
	b = binary.BigEndian.AppendUint16(b, f.src.Port())
	b = binary.BigEndian.AppendUint16(b, f.dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeader+size))
	return append(b, 0, 0) // the checksum is not known
}

// quoteEcho writes the header of an echo request of a peer, and after it the
// beginning of the message as this host has sent it.
func quoteEcho(f *flow, about []byte) []byte {
	about = about[:min(len(about), icmpQuote-ipv4Header)]
	b := make([]byte, 0, ipv4Header+len(about))
	b = appendIPv4(b, 0, 1, protoICMP, word(f.src.Addr()), word(f.dst.Addr()), len(about))
	b = append(b, about...)
	setEchoID(b[ipv4Header:], f.src.Port())
	return b
}
