package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// datagram builds a UDP packet of either family with a right checksum.
func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, src.Port())
	d = binary.BigEndian.AppendUint16(d, dst.Port())
	d = binary.BigEndian.AppendUint16(d, uint16(udpHeader+len(payload)))
	d = append(append(d, 0, 0), payload...)
	var p []byte
	if src.Addr().Is6() {
		p = message6(src.Addr().String(), dst.Addr().String(), protoUDP, d)
	} else {
		p = packet(src.Addr(), dst.Addr(), protoUDP, d)
	}
	offset := len(p) - len(d)
	sum := ^onesSum(0).add(packetAddresses(p)).add(d).word(protoUDP).word(uint16(len(d))).fold()
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p[offset+6:], sum)
	return p
}

// Datagrams of all sizes, many at once and of several flows, go out and come
// back as they are and in the order of their flow.
func TestExitUDPInBatches(t *testing.T) {
	w := newInternet(t)
	for _, c := range []struct{ name, src, dst string }{
		{"IPv4", "10.8.0.2", "1.1.1.1"}, {"IPv6", "fd00:8::2", "2606:4700::1111"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, one, _ := dualRouter(t, w.options)
			rnd := rand.New(rand.NewPCG(7, 7))
			const flows = 3
			var want [flows][][]byte
			send := func(flow, size int) []byte {
				payload := make([]byte, size)
				for i := range payload {
					payload[i] = byte(rnd.Uint32())
				}
				want[flow] = append(want[flow], payload)
				return datagram(netip.AddrPortFrom(netip.MustParseAddr(c.src), uint16(5000+flow)), netip.AddrPortFrom(netip.MustParseAddr(c.dst), 443), payload)
			}
			for round := range 20 {
				var packets [][]byte
				for flow := range flows { // runs of one size with a shorter end, as senders have them
					for range rnd.IntN(6) {
						packets = append(packets, send(flow, 1200))
					}
					packets = append(packets, send(flow, rnd.IntN(1200)))
				}
				for range 5 { // and anything
					packets = append(packets, send(rnd.IntN(flows), rnd.IntN(1350)))
				}
				if round == 0 {
					packets = append(packets, send(0, 0), send(1, 1352), send(2, 1352))
				}
				b := one.up.NewBurst(65400)
				for _, p := range packets {
					room := b.Next(len(p))
					if room == nil {
						b.Send()
						b = one.up.NewBurst(65400)
						room = b.Next(len(p))
					}
					copy(room, p)
				}
				b.Send()
				var got [flows][][]byte
				for n := 0; n < len(packets); {
					for _, p := range one.take(1) {
						offset := ipv4Header
						if isIPv6(p) {
							offset = ipv6Header
						} else if checksum(p[:ipv4Header]) != 0 {
							t.Fatalf("header %x", p[:ipv4Header])
						}
						payload, ok := datagramPayload(packetAddresses(p), p[offset:])
						from, to := packetEnds(p, offset)
						if !ok || from.Addr().String() != c.dst || to.Addr().String() != c.src || from.Port() != 443 {
							t.Fatalf("%x", p)
						}
						flow := to.Port() - 5000
						got[flow] = append(got[flow], payload)
						n++
					}
				}
				for flow := range flows {
					if len(got[flow]) != len(want[flow]) {
						t.Fatalf("flow %d: %d of %d came back", flow, len(got[flow]), len(want[flow]))
					}
					for i := range got[flow] {
						if !bytes.Equal(got[flow][i], want[flow][i]) {
							t.Fatalf("flow %d: datagram %d of %d bytes is another, of %d", flow, i, len(want[flow][i]), len(got[flow][i]))
						}
					}
					want[flow] = nil
				}
			}
			if n := d.Status().Exit.UDPFlows; n != flows {
				t.Errorf("%d flows", n)
			}
			if n := w.dialed.Swap(0); n != flows {
				t.Errorf("%d sockets", n)
			}
			// Damaged ones go nowhere, and are counted.
			before := d.Status().CorruptedPackets
			bad := [][]byte{
				edited(send(0, 100), func(p []byte) { p[len(p)-1]++ }),
				edited(send(0, 100), func(p []byte) { p[len(p)-101-2]++ }), // its length
			}
			large := edited(send(0, 3000), func(p []byte) { p[len(p)-1]++ })
			if isIPv6(large) {
				bad = append(bad, fragmentOf6(large, 1, 0, 1360), fragmentOf6(large, 1, 1360, 3008))
				bad = append(bad, edited(send(0, 100), func(p []byte) { p[ipv6Header+6], p[ipv6Header+7] = 0, 0 }))
			} else {
				bad = append(bad, fragmentOf(large, 1, 0, 1400), fragmentOf(large, 1, 1400, 3008))
				bad = append(bad, edited(send(0, 100), func(p []byte) { p[1] = 4 })) // of its header
			}
			one.send(bad...)
			last := send(0, 10)
			one.send(last)
			if p := one.take(1)[0]; !bytes.HasSuffix(p, want[0][len(want[0])-1]) {
				t.Errorf("%x came back", p)
			}
			eventually(t, "count", func() bool { return d.Status().CorruptedPackets == before+4 })
		})
	}
}

// newDatagramSockets returns one that is connected to the other.
func newDatagramSockets(t *testing.T) (net.Conn, *net.UDPConn) {
	t.Helper()
	receiver, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = receiver.Close() })
	conn, err := net.Dial("udp4", receiver.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, receiver
}

// What goes together: one size, a shorter one at the end, so many, so much.
func TestUDPRun(t *testing.T) {
	conn, receiver := newDatagramSockets(t)
	a := &association{exit: &exit{since: time.Now()}, host: newDatagramWriter(conn)}
	for _, sizes := range [][]int{
		{100}, {0}, {100, 100, 100}, {100, 100, 50}, {100, 50, 100}, {50, 100}, {0, 0, 5, 0}, {100, 100, 0, 100},
		repeated(1400, 200), repeated(1, 200), {20000, 20000, 20000, 20000}, {60000, 60000}, {1400, 60000, 1400},
	} {
		t.Run(fmt.Sprint(len(sizes), " from ", sizes[0]), func(t *testing.T) {
			var r udpRun
			for i, size := range sizes {
				r.add(a, bytes.Repeat([]byte{byte(i)}, size))
				if i%40 == 39 { // no more than the receiver's buffer holds
					r.flush()
					readSizes(t, receiver, sizes[i-39:i+1], i-39)
				}
			}
			r.flush()
			if r.a != nil || r.n != 0 {
				t.Error("something is left")
			}
			rest := len(sizes) / 40 * 40
			readSizes(t, receiver, sizes[rest:], rest)
		})
	}
}

func repeated(size, n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = size
	}
	return list
}

func readSizes(t *testing.T, c *net.UDPConn, sizes []int, first int) {
	t.Helper()
	buf := make([]byte, 65536)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for i, size := range sizes {
		n, err := c.Read(buf)
		if err != nil || n != size || n > 0 && buf[n-1] != byte(first+i) {
			t.Fatalf("datagram %d of %d bytes: %d, %v", first+i, size, n, err)
		}
	}
}

// Whatever bytes a peer sends as a datagram, what is passed on lies inside.
func FuzzDatagramPayload(f *testing.F) {
	src, dst := netip.MustParseAddrPort("10.8.0.2:5000"), netip.MustParseAddrPort("1.1.1.1:53")
	f.Add(datagram(src, dst, []byte("question")))
	f.Add(datagram(netip.MustParseAddrPort("[fd00:8::2]:5000"), netip.MustParseAddrPort("[2606:4700::1111]:53"), nil))
	f.Add(udpDatagram(src.Addr(), dst.Addr(), 53, 3))
	f.Fuzz(func(t *testing.T, p []byte) {
		offset := ipv4Header
		if h, ok := parseIPv4(p); ok {
			offset = h.length
		} else if h, ok := parseIPv6(p); ok {
			offset = h.length
		} else {
			return
		}
		if payload, ok := datagramPayload(packetAddresses(p), p[offset:]); ok && len(payload) > len(p)-offset-udpHeader {
			t.Fatalf("%d bytes of %d", len(payload), len(p))
		}
	})
}

// Where the system takes no runs, and after a failure, each goes once.
func TestUDPSendsEachOnce(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprint("one by one: ", single), func(t *testing.T) {
			conn, receiver := newDatagramSockets(t)
			f := &flow{src: netip.MustParseAddrPort("10.8.0.2:5000"), dst: netip.MustParseAddrPort("1.1.1.1:53")}
			a := &association{exit: newServer(t, nil).exit, flow: f, host: newDatagramWriter(conn)}
			a.host.single = single
			tooLarge := make([]byte, 65535) // more than a datagram holds: EMSGSIZE
			a.send([][]byte{{1}, {2}, {3}}, 1)
			readSizes(t, receiver, []int{1, 1, 1}, 1)
			a.send([][]byte{tooLarge, {5}}, len(tooLarge))
			a.send([][]byte{{4}}, 1)
			readSizes(t, receiver, []int{1}, 4)
		})
	}
}
