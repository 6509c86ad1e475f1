package netstack

import "encoding/binary"

// A window may close in front of what was sent, since windows are told in steps: the
// stack takes back up to one. What acknowledges from there has a sequence number
// behind the window, and the stack drops it, with the acknowledgement. If both sides
// write before they read, each then repeats itself for ever. So such a packet gets the
// number of the edge, as RFC 9293 section 3.10.7.4 has a receiver of a zero window
// take acknowledgements; what it says of the stack's own is mended where it comes in.

// edge is where a closed window ends.
type edge struct {
	shut bool
	at   uint32
}

// maxStep is the largest step in bytes (RFC 7323 section 2.3).
const maxStep = 1 << 14

// tell is for a packet of the side whose window it is.
func (e *edge) tell(h *tcpHeaders) { e.shut, e.at = h.window() == 0, h.number() }

// fit is for a packet of the other side.
func (e *edge) fit(h *tcpHeaders) {
	if !e.shut || h.size > 0 || h.flags()&(flagSYN|flagFIN|flagACK) != flagACK {
		return
	}
	if over := h.seq() - e.at; over > 0 && over <= maxStep {
		h.setSeq(e.at)
	}
}

func (h *tcpHeaders) window() uint16 { return binary.BigEndian.Uint16(h.tcp[14:]) }

func (h *tcpHeaders) setSeq(seq uint32) {
	changed(h.tcp[4:6], h.tcp[16:18], func() { binary.BigEndian.PutUint16(h.tcp[4:], uint16(seq>>16)) })
	changed(h.tcp[6:8], h.tcp[16:18], func() { binary.BigEndian.PutUint16(h.tcp[6:], uint16(seq)) })
}
