package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// socketError is an ICMP error that this host received about something that
// one of its sockets has sent.
type socketError struct {
	v6        bool // numbers of ICMPv6
	typ, code uint8
	mtu       int        // bytes, where a packet was too big; 0 if not known
	from      netip.Addr // who says so; invalid if not known
	about     []byte     // beginning of what was sent: of a datagram its payload, of echo the message
}

// passedOn reports whether peers are told: of what cannot be reached, and of
// routes that are too long, which is how they are traced.
func (e *socketError) passedOn() bool {
	if e.v6 {
		return e.typ == icmp6Unreachable || e.typ == icmp6TooBig || e.typ == icmp6TimeExceeded
	}
	return e.typ == icmpUnreachable || e.typ == icmpTimeExceeded
}

// localError is the ICMP error that fits a failure to send. It reports false
// if peers are not told of it.
func localError(err error) (e icmpError, ok bool) {
	errno, _ := err.(syscall.Errno)
	switch errno {
	case syscall.ENETUNREACH:
		return errorNoRoute, true
	case syscall.EHOSTUNREACH:
		return errorNoHost, true
	case syscall.ECONNREFUSED:
		return errorNoPort, true
	case syscall.EACCES, syscall.EPERM: // a broadcast, a rule of this host's firewall
		return errorProhibited, true
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

// complain sends an ICMP error to a peer. quote is the beginning of the packet
// of the peer that it is about, and of the family of the error.
func (e *exit) complain(se *socketError, quote []byte) {
	if !e.d.hub.icmp.Allow() {
		return
	}
	message := appendErrorMessage(nil, se.typ, se.code, se.mtu, quote)
	if isIPv6(quote) {
		e.sendICMP(e.speaker6(se.from), netip.AddrFrom16([16]byte(quote[8:])), icmpTOS, message)
	} else {
		e.sendICMP(e.speaker(se.from), netip.AddrFrom4([4]byte(quote[12:])), icmpTOS, message)
	}
}

// refuse does the same of an error that this host has found.
func (e *exit) refuse(what icmpError, quote []byte) {
	typ, code := what.about(quote)
	e.complain(&socketError{typ: typ, code: code}, quote)
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

func (e *exit) speaker6(addr netip.Addr) netip.Addr {
	if addr = addr.WithZone(""); !addr.Is6() || !unicast6(addr) || e.d.Owns(addr) || e.hosts.contains(addr) {
		return e.d.addr6
	}
	return addr
}

// sendICMP sends an ICMP message to a peer. It writes the checksum of IPv6.
func (e *exit) sendICMP(from, to netip.Addr, tos uint8, message []byte) {
	if to.Is6() {
		setChecksum6(message, append(from.AsSlice(), to.AsSlice()...))
		e.sendPacket(from, to, protoICMPv6, tos, message)
	} else {
		e.sendPacket(from, to, protoICMP, tos, message)
	}
}

// sendPacket sends something to a peer through the stack, which makes fragments
// of what is too large.
func (e *exit) sendPacket(from, to netip.Addr, proto, tos uint8, message []byte) {
	r, terr := e.d.stack.FindRoute(nicID, toStack(from), toStack(to), protocolOf(to), false)
	if terr != nil {
		return
	}
	defer r.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(message),
	})
	defer pkt.DecRef()
	_ = r.WritePacket(stack.NetworkHeaderParams{Protocol: tcpip.TransportProtocolNumber(proto), TTL: defaultTTL, TOS: tos}, pkt)
}

// quotePacket returns the beginning of a packet, as ICMP errors quote it.
func quotePacket(pkt *stack.PacketBuffer) []byte {
	network := pkt.NetworkHeader().Slice()
	limit := quoteLimit(network)
	quote := make([]byte, 0, limit)
	quote = append(quote, network...)
	payload := stack.PayloadSince(pkt.TransportHeader())
	defer payload.Release()
	return append(quote, payload.AsSlice()[:min(payload.Size(), limit-len(quote))]...)
}

// hops returns how many routers a packet may still pass.
func hops(p []byte) uint8 {
	if isIPv6(p) {
		return p[7]
	}
	return p[8]
}

// quoteDatagram writes the headers of a datagram with size bytes of payload
// that a peer has sent some time ago.
func quoteDatagram(f *flow, size int) []byte {
	b := appendHeader(make([]byte, 0, ipv6Header+udpHeader), f, protoUDP, udpHeader+size)
	b = binary.BigEndian.AppendUint16(b, f.src.Port())
	b = binary.BigEndian.AppendUint16(b, f.dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeader+size))
	return append(b, 0, 0) // the checksum is not known
}

// quoteEcho writes the header of an echo request of a peer, and after it the
// beginning of the message as this host has sent it.
func quoteEcho(f *flow, about []byte) []byte {
	proto := uint8(protoICMP)
	if f.dst.Addr().Is6() {
		proto = protoICMPv6
	}
	about = about[:min(len(about), icmpQuote-ipv4Header)]
	b := appendHeader(make([]byte, 0, ipv6Header+len(about)), f, proto, len(about))
	start := len(b)
	b = append(b, about...)
	setEchoID(b[start:], f.src.Port())
	return b
}

// appendHeader writes the IP header of a packet of f with size bytes of payload.
func appendHeader(b []byte, f *flow, proto uint8, size int) []byte {
	src, dst := f.src.Addr(), f.dst.Addr()
	if dst.Is6() {
		return appendIPv6(b, 0, 1, proto, src.As16(), dst.As16(), size)
	}
	return appendIPv4(b, 0, 1, proto, word(src), word(dst), size)
}
