package netstack

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvipv4 "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gvipv6 "gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// offloadLink joins two stacks: what one sends is cut by a segmenter, and what
// has gathered by the time the other looks is joined by a coalescer. Of the
// rest of a link it has nothing.
type offloadLink struct {
	stack.LinkEndpoint // nil
	dispatch           stack.NetworkDispatcher
	peer               *offloadLink

	mu      sync.Mutex
	arrived sync.Cond
	queue   [][]byte
	closed  bool

	cut               segmenter // with mu of peer
	refused, tooLarge int       // likewise
	joined, bad       int       // of the goroutine of run
}

const offloadMTU = 1420

func (l *offloadLink) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	to := l.peer
	to.mu.Lock()
	defer to.mu.Unlock()
	for _, pkt := range pkts.AsSlice() {
		if !l.cut.reset(pkt) {
			l.refused++
		}
		for size, ok := l.cut.more(); ok; size, ok = l.cut.more() {
			if size > offloadMTU {
				l.tooLarge++
			}
			p := make([]byte, size)
			l.cut.write(p)
			to.queue = append(to.queue, p)
		}
	}
	to.arrived.Signal()
	return pkts.Len(), nil
}

// run delivers until close.
func (l *offloadLink) run() {
	var c coalescer
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.closed {
			l.arrived.Wait()
		}
		batch := l.queue
		l.queue = nil
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return
		}
		l.bad += c.run(batch, func(pkt *stack.PacketBuffer) {
			if pkt.Size() > offloadMTU {
				l.joined++
			}
			l.dispatch.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			pkt.DecRef()
		})
	}
}

func (l *offloadLink) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.arrived.Signal()
}

func (l *offloadLink) Attach(d stack.NetworkDispatcher)      { l.dispatch = d }
func (l *offloadLink) IsAttached() bool                      { return l.dispatch != nil }
func (*offloadLink) MTU() uint32                             { return offloadMTU }
func (*offloadLink) MaxHeaderLength() uint16                 { return 0 }
func (*offloadLink) LinkAddress() tcpip.LinkAddress          { return "" }
func (*offloadLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*offloadLink) AddHeader(*stack.PacketBuffer)           {}
func (*offloadLink) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*offloadLink) SetOnCloseAction(func())                 {}
func (*offloadLink) Wait()                                   {}
func (*offloadLink) Close()                                  {}
func (*offloadLink) GSOMaxSize() uint32                      { return 1 << 16 }
func (*offloadLink) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (*offloadLink) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

func newOffloadStack(t testing.TB, l *offloadLink, addrs ...tcpip.Address) *stack.Stack {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{gvipv4.NewProtocol, gvipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := s.CreateNIC(nicID, l); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		protocol := header.IPv4ProtocolNumber
		if a.Len() == 16 {
			protocol = header.IPv6ProtocolNumber
		}
		if err := s.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: a.WithPrefix()}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID}})
	return s
}

// TestOffloadBetweenStacks transfers both ways between two real stacks, over
// IPv4 and IPv6.
func TestOffloadBetweenStacks(t *testing.T) {
	for name, c := range map[string]struct {
		protocol tcpip.NetworkProtocolNumber
		server   tcpip.Address
		client   tcpip.Address
	}{
		"IPv4": {header.IPv4ProtocolNumber, tcpip.AddrFrom4([4]byte{10, 8, 0, 1}), tcpip.AddrFrom4([4]byte{10, 8, 0, 2})},
		"IPv6": {header.IPv6ProtocolNumber, tcpip.AddrFrom16([16]byte{0xfd, 15: 1}), tcpip.AddrFrom16([16]byte{0xfd, 15: 2})},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := new(offloadLink), new(offloadLink)
			a.peer, b.peer = b, a
			a.arrived.L, b.arrived.L = &a.mu, &b.mu
			server, client := newOffloadStack(t, a, c.server), newOffloadStack(t, b, c.client)
			var links sync.WaitGroup
			links.Go(a.run)
			links.Go(b.run)

			address := tcpip.FullAddress{NIC: nicID, Addr: c.server, Port: 80}
			listener, err := gonet.ListenTCP(server, address, c.protocol)
			if err != nil {
				t.Fatal(err)
			}
			links.Go(func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
			conn, err := gonet.DialContextTCP(context.Background(), client, address, c.protocol)
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 4<<20+17)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			links.Go(func() {
				_, _ = conn.Write(data)
				_ = conn.CloseWrite()
			})
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes came back, error %v; want %d", len(got), err, len(data))
			}
			_ = conn.Close()
			_ = listener.Close()
			a.close()
			b.close()
			links.Wait()
			server.Destroy()
			client.Destroy()
			for _, l := range []*offloadLink{a, b} {
				if l.bad != 0 || l.refused != 0 || l.tooLarge != 0 || l.joined == 0 {
					t.Errorf("%d bad, %d refused, %d larger than the MTU, %d joined", l.bad, l.refused, l.tooLarge, l.joined)
				}
			}
		})
	}
}
