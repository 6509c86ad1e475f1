package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"gatecontrol/wireguard"
)

// deaf is a peer that has a session with d and then reads no more: its socket
// is one that nobody reads, so that only the sending side is measured.
func deaf(b *testing.B, d *Device, r *raw) {
	b.Helper()
	r.join(d)
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sink.Close() })
	_ = r.wg.Close()
	d.wg.Lookup(r.key.Public()).SetEndpoint(sink.LocalAddr().(*net.UDPAddr).AddrPort())
}

func benchRouter(b *testing.B) (d *Device, from *wireguard.Peer) {
	b.Helper()
	plain, gateway := newRaw(b), newRaw(b)
	d = started(b, nil, Config{Peers: []Peer{
		{Name: "plain", PublicKey: plain.key.Public(), AllowedIPs: prefixes("10.8.0.2/32")},
		{Name: "gateway", PublicKey: gateway.key.Public(), AllowedIPs: prefixes("10.8.0.4/32")},
	}})
	deaf(b, d, gateway)
	return d, d.wg.Lookup(plain.key.Public())
}

// BenchmarkTransmit sends a packet of the stack to a peer: sealed, cut, and
// handed to the system.
func BenchmarkTransmit(b *testing.B) {
	for name, segments := range map[string]int{"1 segment": 1, "44 segments": 44} {
		b.Run(name, func(b *testing.B) {
			d, _ := benchRouter(b)
			pkt := largeSegment(gatewayIP, 1360, segments)
			defer pkt.DecRef()
			b.SetBytes(int64(1360 * segments))
			b.ReportAllocs()
			for b.Loop() {
				d.hub.transmit(pkt)
			}
		})
	}
}

// BenchmarkReceive takes a batch of packets of a peer: to the stack, which drops
// them since there is no such connection, or to another peer.
func BenchmarkReceive(b *testing.B) {
	const batch = 45
	for name, to := range map[string]netip.Addr{"to the stack": testAddr, "to a peer": gatewayIP} {
		b.Run(name, func(b *testing.B) {
			d, from := benchRouter(b)
			p := tcpPacket(false, flagRST|flagACK, 1, 1, timestamps, make([]byte, 1368))
			if to != testAddr {
				p = udpDatagram(plainIP, to, 5000, 1392)
			}
			fresh, packets := make([][]byte, batch), make([][]byte, batch)
			for i := range packets {
				fresh[i] = bytes.Clone(p)
				packets[i] = fresh[i]
			}
			b.SetBytes(int64(batch * len(p)))
			b.ReportAllocs()
			for b.Loop() {
				d.hub.receive(from, packets)
			}
		})
	}
	b.Run("one flow to the stack", func(b *testing.B) { // which joins it
		d, from := benchRouter(b)
		packets := make([][]byte, batch)
		for i := range packets {
			packets[i] = tcpPacket(false, flagACK, uint32(1+1368*i), 1, timestamps, make([]byte, 1368))
		}
		d.hub.receive(from, packets)
		b.SetBytes(batch * 1368)
		b.ReportAllocs()
		for b.Loop() {
			d.hub.receive(from, packets)
		}
	})
}

// BenchmarkAcks looks at an acknowledgement that is held, and at the data that
// says the same.
func BenchmarkAcks(b *testing.B) {
	w := watch(b, 1000)
	ack := fromStack4(tcpPacket(true, flagACK, 1, 1100, timestamps, nil))
	data := fromStack4(tcpPacket(true, flagACK, 1, 1000, timestamps, []byte("data")))
	b.ReportAllocs()
	for b.Loop() {
		if w.outgoing(w.to, ack, 1420) || !w.outgoing(w.to, data, 1420) {
			b.Fatal("not held")
		}
	}
	time.Sleep(ackDelay + ackTick)
}
