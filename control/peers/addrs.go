package peers

import (
	"net/netip"

	"gatecontrol/model"
	"gatecontrol/store"
)

// allocate returns the lowest tunnel address that no peer has, enabled or not.
// The network and broadcast addresses, the one after the network address and
// this server's own are never given away. It reads one index, in which every
// peer has an entry, so it also counts the peers.
func (s *Service) allocate(tx *store.Tx) (netip.Addr, error) {
	subnet := s.o.Tunnel.Subnet
	base := number(subnet.Addr())
	size := uint32(1) << (32 - subnet.Bits()) // 0 for /0, which has no end to reach

	// Of MaxPeers addresses and the reserved ones, the lowest free one is among
	// the first that many and one.
	const window = MaxPeers + 4
	var used [window]bool
	mark := func(a netip.Addr) {
		if off := number(a) - base; off < window {
			used[off] = true
		}
	}
	used[0], used[1] = true, true
	mark(s.o.Tunnel.Gateway)
	count := 0
	for text := range store.Peers.Entries(tx, "address", "") {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
			mark(a)
		}
		count++
	}
	if count >= MaxPeers {
		return netip.Addr{}, model.Conflict("", "there are already %d peers, which is the most that one server takes", MaxPeers)
	}
	for off := uint32(0); off < window && (size == 0 || off < size-1); off++ {
		if !used[off] {
			return address(base + off), nil
		}
	}
	return netip.Addr{}, model.Conflict("", "every address of the tunnel subnet %s is taken", subnet)
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
