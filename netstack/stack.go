package netstack

import (
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvipv4 "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gvipv6 "gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
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
// tunnel addresses, which also takes packets for every other address, so that
// the exit can answer for them.
func newStack(h *hub, own []netip.Addr, mtu int) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			gvipv4.NewProtocol, gvipv6.NewProtocolWithOptions(gvipv6.Options{NDPConfigs: gvipv6.NDPConfigurations{
				HandleRAs: gvipv6.HandlingRAsDisabled, // a tunnel has no routers
			}}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        false, // with every address taken for ours, all sources would seem forged
	})
	if err := setUp(s, h, own, mtu); err != nil {
		s.Destroy()
		return nil, err
	}
	return s, nil
}

func setUp(s *stack.Stack, h *hub, own []netip.Addr, mtu int) error {
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
	for _, addr := range own {
		a := tcpip.ProtocolAddress{Protocol: protocolOf(addr), AddressWithPrefix: toStack(addr).WithPrefix()}
		if err := s.AddProtocolAddress(nicID, a, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", addr, err)
		}
	}
	s.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nicID})
	s.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nicID})
	if err := s.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("take packets for other addresses: %s", err)
	}
	if err := s.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("answer for other addresses: %s", err)
	}
	return nil
}
