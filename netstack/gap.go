package netstack

import "encoding/binary"

// Selective acknowledgements (RFC 2018) of connections that this side has ended
// while the peer goes on. The stack sends none there, so that a transfer which
// loses a flight would have to be repeated whole, a packet per round trip. It does
// keep what comes behind a gap, so it can be said here.

// gaps is what has come of one flow behind what is acknowledged.
type gaps struct {
	wanted bool             // by the peer
	blocks [maxBlocks]block // the last one that grew first
	count  int              // of blocks
}

// block is a run of data. Numbers are of sequence.
type block struct{ start, end uint32 }

// maxBlocks is how many fit into the options of a packet.
const maxBlocks = 4

// note is for a packet of the peer.
func (g *gaps) note(h *tcpHeaders, acked uint32) {
	b := block{h.seq(), h.seq() + uint32(h.size)}
	if !g.wanted || h.size == 0 || !after(b.start, acked) || b.end-acked > tcpReceiveMax {
		return
	}
	others := g.blocks[:g.count]
	g.count = 1
	var joined [maxBlocks]block
	for _, o := range others {
		switch {
		case !after(b.start, o.end) && !after(o.start, b.end):
			if after(b.start, o.start) {
				b.start = o.start
			}
			if after(o.end, b.end) {
				b.end = o.end
			}
		case g.count < maxBlocks:
			joined[g.count] = o
			g.count++
		}
	}
	joined[0] = b
	g.blocks = joined
}

// forget drops what is acknowledged, or only waits for the stack to be so.
func (g *gaps) forget(acked uint32) {
	n := 0
	for _, b := range g.blocks[:g.count] {
		if after(b.start, acked) {
			g.blocks[n] = b
			n++
		}
	}
	g.count = n
}

// report appends to p the packet with these headers and the gaps that it does not
// tell of, if it is a pure acknowledgement and there are any; or it returns nil.
func (g *gaps) report(p []byte, h *tcpHeaders) []byte {
	g.forget(h.number())
	if h.size > 0 || h.flags()&(flagFIN|flagACK) != flagACK {
		return nil
	}
	const noOperation, selective, head, each = 1, 5, 4, 8
	count := min(g.count, (tcpHeader+maxOptions-len(h.tcp)-head)/each)
	if count <= 0 {
		return nil
	}
	p = append(append(p, h.ip...), h.tcp...)
	p = append(p, noOperation, noOperation, selective, byte(head-2+count*each))
	for _, b := range g.blocks[:count] {
		p = binary.BigEndian.AppendUint32(p, b.start)
		p = binary.BigEndian.AppendUint32(p, b.end)
	}
	ip, t := p[:len(h.ip)], p[len(h.ip):]
	if isIPv6(ip) {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(t)))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(p)))
		clear(ip[10:12])
		binary.BigEndian.PutUint16(ip[10:], ^onesSum(0).add(ip).fold())
	}
	t[12] = byte(len(t)/4) << 4
	clear(t[16:18])
	sum := onesSum(0).add(packetAddresses(ip)).word(protoTCP).word(uint16(len(t))).add(t)
	binary.BigEndian.PutUint16(t[16:], ^sum.fold())
	return p
}
