package netstack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/wireguard"
)

// A UDP flow ends after this long without a datagram in either direction. Most
// devices assume no less than 120 s (RFC 4787 section 4.3); DNS needs one
// answer.
const (
	udpIdle    = 120 * time.Second
	udpIdleDNS = 30 * time.Second
)

// associations are the UDP flows that are open.
type associations struct {
	mu    sync.RWMutex
	flows map[flowKey]*association
}

func (s *associations) find(key flowKey) *association {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.flows[key]
}

// association is one UDP flow. Datagrams pass the stack by: those of the peer
// are written to this host's socket where they arrive, those of the socket by
// the goroutine of the flow.
type association struct {
	exit *exit
	flow *flow
	key  flowKey
	idle time.Duration

	last atomic.Int64 // when a datagram passed: time since the exit was made
	size atomic.Int32 // of the peer's last datagram

	mu   sync.Mutex // of writing
	host *datagramWriter

	answered bool // of the reading goroutine: a datagram has come back
}

// udpRun collects what the datagrams of one batch bring for one flow, to be
// written in one call. It is for one goroutine and keeps nothing of a batch.
type udpRun struct {
	a       *association // nil: nothing is collected
	n, size int          // payloads, bytes of the first
	total   int          // bytes
	data    [maxRun][]byte
}

// Bounds of a run: datagrams, and bytes with the headers that the system adds,
// so that one call takes them.
const (
	maxRun      = 64
	maxRunBytes = 65000
)

// add collects one more payload, and writes what was collected if it cannot go
// together: all of a run have one size, but the last may be shorter. Empty ones,
// which the system would not find in a run, go alone.
func (r *udpRun) add(a *association, payload []byte) {
	if r.a != nil && (r.a != a || r.n == maxRun || len(payload) > r.size || len(payload) == 0 ||
		r.total != r.n*r.size || r.total+len(payload) > maxRunBytes) {
		r.flush()
	}
	if r.a == nil {
		r.a, r.size = a, len(payload)
	}
	r.data[r.n] = payload
	r.n++
	r.total += len(payload)
}

// flush writes what was collected.
func (r *udpRun) flush() {
	a := r.a
	if a == nil {
		return
	}
	data := r.data[:r.n]
	r.a, r.n, r.total = nil, 0, 0
	a.touch()
	a.size.Store(int32(len(data[len(data)-1])))
	a.send(data, r.size)
	clear(data)
}

// takeDatagram collects a UDP datagram of a peer to the outside, which v has said
// to be whole, or hands it over if it is for this host. It reports false if it is
// to be refused, which the stack does.
func (e *exit) takeDatagram(r *udpRun, t *table, packet []byte, v verdict) bool {
	payload, ok := datagramPayload(packetAddresses(packet), packet[v.header:])
	if !ok || !isIPv6(packet) && checksum(packet[:v.header]) != 0 {
		e.d.hub.corrupted.Add(1)
		return true
	}
	key := keyOf(packetAddresses(packet), packet[v.header:])
	a := r.a
	if a == nil || a.key != key {
		if a = e.associations.find(key); a == nil || a.flow.from != v.from.identity || !a.flow.alive() {
			src, dst := packetEnds(packet, v.header)
			switch _, ruling := e.judge(t, src.Addr(), dst); ruling {
			case refused:
				return false
			case ourselves:
				return e.handDatagram(payload, v.from, src, dst)
			}
			if a = e.associate(v.from, key, src, dst, hops(packet), packet); a == nil {
				return true
			}
		}
	}
	r.add(a, payload)
	return true
}

// handDatagram gives a datagram to the UDP listener on the same port in the
// tunnel. It reports false if there is none.
func (e *exit) handDatagram(payload []byte, from *peer, src, dst netip.AddrPort) bool {
	l := e.d.packetListener(dst.Port())
	if l != nil {
		l.hand(payload, from.identity, src, dst)
	}
	return l != nil
}

// handleUDP takes from the stack the datagrams that belong to no socket: what came
// in fragments, and what is to be refused. False makes it answer "port
// unreachable", as for a closed port.
func (e *exit) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src := addrPort(tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort})
	dst := addrPort(tcpip.FullAddress{Addr: id.LocalAddress, Port: id.LocalPort})
	if e.d.is(dst.Addr()) {
		return false
	}
	p, v := e.judge(e.d.table.Load(), src.Addr(), dst)
	if v == refused {
		return false
	}
	network := pkt.NetworkHeader().Slice()
	view := stack.PayloadSince(pkt.TransportHeader())
	defer view.Release()
	payload, ok := datagramPayload(packetAddresses(network), view.AsSlice())
	if !ok { // the stack has not looked yet
		e.d.hub.corrupted.Add(1)
		return true
	}
	if v == ourselves {
		return e.handDatagram(payload, p, src, dst)
	}
	key := keyOf(packetAddresses(network), view.AsSlice())
	a := e.associations.find(key)
	if a == nil || a.flow.from != p.identity || !a.flow.alive() {
		a = e.associate(p, key, src, dst, hops(network), quotePacket(pkt))
	}
	if a != nil {
		var r udpRun
		r.add(a, payload)
		r.flush()
	}
	return true
}

// associate opens a flow. It returns nil if there can be none now, and tells the
// peer why if that is about the destination: quote is the beginning of the packet
// that asks for it.
func (e *exit) associate(p *peer, key flowKey, src, dst netip.AddrPort, hops uint8, quote []byte) *association {
	if hops <= 1 {
		e.refuse(errorHops, quote)
		return nil
	}
	if !e.acquireSocket(&e.udpFlows, &p.udpFlows, maxUDPFlows, maxUDPFlowsPeer) {
		return nil // dropped: the peer may try again
	}
	ctx, f := e.open(p.identity, src, dst, allowed)
	if f == nil {
		e.releaseSocket(&e.udpFlows, &p.udpFlows)
		return nil
	}
	host, err := e.dial(ctx, "udp", dst)
	if err != nil || !f.setHost(host) {
		e.releaseSocket(&e.udpFlows, &p.udpFlows)
		e.end(f)
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			if what, ok := localError(errno); ok {
				e.refuse(what, quote)
			}
		}
		return nil
	}
	a := &association{exit: e, flow: f, key: key, idle: e.udpIdle, host: newDatagramWriter(host)}
	if dst.Port() == dnsPort {
		a.idle = e.udpIdleDNS
	}
	if a.host.raw != nil {
		reportErrors(a.host.raw, dst.Addr())
		setTTL(a.host.raw, dst.Addr(), hops-1) // for all: routes are traced with a flow each
	}
	a.touch()
	e.associations.mu.Lock()
	e.associations.flows[key] = a
	e.associations.mu.Unlock()
	go a.run(host) // ends with the flow, which exit.wait waits for
	return a
}

// run sends to the peer what the destination answers, until nothing has passed
// for the idle time or the flow ends.
func (a *association) run(host net.Conn) {
	e := a.exit
	defer e.end(a.flow)
	defer e.releaseSocket(&e.udpFlows, &a.flow.from.udpFlows)
	defer e.associations.forget(a)
	from := e.newDatagramReader(host)
	for {
		left := a.idle - (time.Since(e.since) - time.Duration(a.last.Load()))
		if left <= 0 || host.SetReadDeadline(time.Now().Add(left)) != nil {
			return
		}
		if err := a.pump(from); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

func (s *associations) forget(a *association) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows[a.key] == a {
		delete(s.flows, a.key)
	}
}

// send writes payloads of the peer, all but the last of size bytes: in one call
// if the system takes that, else one by one. What comes after a failure is lost.
func (a *association) send(payloads [][]byte, size int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(payloads) > 1 && a.host.joins() {
		if err := a.try(func() error { return a.host.writeJoined(payloads, size) }); !segmentsRefused(err) {
			return
		}
	}
	for _, b := range payloads {
		if a.try(func() error { return a.host.write(b) }) != nil {
			return
		}
	}
}

// try writes once more if what the system says is about something earlier, and
// tells the peer why it failed.
func (a *association) try(write func() error) error {
	err := write()
	if isReported(err) {
		a.takeErrors()
		err = write()
	}
	if what, ok := localError(err); ok {
		a.exit.refuse(what, a.quote())
	}
	return err
}

// pump sends answers to the peer until reading fails. A destination that has
// never answered and refuses ends the flow: others may need its descriptor.
func (a *association) pump(from *datagramReader) error {
	for {
		buf, sizes, err := from.next()
		var last *wireguard.Burst
		if len(sizes) > 0 {
			a.answered = true
			a.touch()
			last = a.deliver(buf[:], sizes)
		}
		if buf != nil {
			a.exit.datagramBuffers.Put(buf)
		}
		if last != nil {
			last.SendSoon(true)
		}
		switch {
		case isReported(err):
			a.takeErrors()
			if !a.answered && err == syscall.ECONNREFUSED {
				return err
			}
		case err != nil:
			return err
		}
	}
}

// deliver sends datagrams of these sizes to the peer. They stand one behind the
// other in buf. The last ones are left to the caller, since sending may wait and
// the buffer is large: most often they are all, in a small one.
func (a *association) deliver(buf []byte, sizes []int) *wireguard.Burst {
	h := a.exit.d.hub
	to := h.table.Load().lookup(a.flow.src.Addr())
	if to == nil || to.identity != a.flow.from {
		h.filtered.Add(1)
		return nil
	}
	return a.exit.sendDatagrams(to, a.flow.dst, a.flow.src, buf, sizes)
}

// sendDatagrams sends datagrams of these sizes, which stand one behind the other
// in buf, to a peer. It returns those that are left to be sent, nil for none.
func (e *exit) sendDatagrams(to *peer, src, dst netip.AddrPort, buf []byte, sizes []int) *wireguard.Burst {
	h := e.d.hub
	defer h.survive()
	if to.wg == nil {
		return nil
	}
	ip := ipv4Header
	if dst.Addr().Is6() {
		ip = ipv6Header
	}
	sum := pseudoSum(src.Addr(), dst.Addr(), protoUDP)
	var b *wireguard.Burst
	for i, n := range sizes {
		payload := buf[:n]
		buf = buf[n:]
		size := ip + udpHeader + n
		if size > h.mtu {
			e.sendPacket(src.Addr(), dst.Addr(), protoUDP, 0, appendDatagram(make([]byte, 0, size), src, dst, sum, payload))
			continue
		}
		var room []byte
		if b != nil {
			room = b.Next(size)
		}
		if room == nil {
			if b != nil {
				b.Send()
			}
			want := size
			if i < len(sizes)-1 {
				want = wireguard.MaxBurst
			}
			b = to.wg.NewBurst(want)
			room = b.Next(size)
		}
		if !allow(to.sending, size) {
			b.Undo()
			h.limited.Add(1)
			continue
		}
		appendDatagram(e.appendIP(room[:0], src.Addr(), dst.Addr(), udpHeader+n), src, dst, sum, payload)
	}
	return b
}

// appendIP writes the IP header of a datagram with size bytes of payload.
func (e *exit) appendIP(b []byte, src, dst netip.Addr, size int) []byte {
	if dst.Is6() {
		return appendIPv6(b, 0, defaultTTL, protoUDP, src.As16(), dst.As16(), size)
	}
	start := len(b)
	b = appendIPv4(b, 0, defaultTTL, protoUDP, word(src), word(dst), size)
	setIPv4ID(b[start:], uint16(e.datagrams.Add(1)))
	return b
}

// takeErrors tells the peer what routers and the destination have told.
func (a *association) takeErrors() {
	if a.host.raw != nil {
		a.exit.takeErrors(a.host.raw, func(se *socketError) { a.exit.complain(se, a.quote()) })
	}
}

// quote stands for the last datagram of the peer in errors about it.
func (a *association) quote() []byte { return quoteDatagram(a.flow, int(a.size.Load())) }

func (a *association) touch() { a.last.Store(int64(time.Since(a.exit.since))) }
