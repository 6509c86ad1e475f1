package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Bits of the second word of a header (RFC 1035 section 4.1.1, RFC 4035).
const (
	bitQR = 1 << 15
	bitAA = 1 << 10
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitCD = 1 << 4

	opcodeMask = 0xf << 11
	rcodeMask  = 0xf
)

const (
	headerSize = 12
	optSize    = 11 // an OPT record without options

	// udpSize is the longest UDP answer we send and accept, in bytes. It fits
	// an IPv6 packet of minimum size, so nothing is fragmented (DNS Flag Day
	// 2020); the tunnel's MTU of 1420 leaves room.
	udpSize = 1232
)

// query is one question and what shapes its answer. name belongs to the
// packet; the rest is copied.
type query struct {
	id    uint16
	bits  uint16
	name  []byte // wire form, in the client's spelling; nil if there is none
	kind  uint16 // QTYPE
	class uint16

	edns    bool
	do      bool   // DNSSEC records are wanted (RFC 3225)
	payload uint16 // what the client takes by UDP, in bytes

	lower [maxName]byte // name in lower case
}

// key is the name in lower case.
func (q *query) key() []byte { return q.lower[:len(q.name)] }

// parse reads a packet. It reports false if the packet deserves silence, and
// else the response code to refuse it with, zero if it is to be answered.
func (q *query) parse(b []byte) (rcode int, ok bool) {
	if len(b) < headerSize {
		return 0, false
	}
	q.id, q.bits = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	if q.bits&bitQR != 0 {
		return 0, false // an answer: answering it could go on for ever
	}
	if q.bits&opcodeMask != 0 {
		return dns.RcodeNotImplemented, true
	}
	counts := b[4:headerSize]
	if binary.BigEndian.Uint16(counts) != 1 {
		return dns.RcodeFormatError, true
	}
	off, ok := q.parseQuestion(b)
	if !ok {
		q.name = nil
		return dns.RcodeFormatError, true
	}
	// IXFR carries an authority record (RFC 1995), and is refused anyway.
	if q.kind == dns.TypeAXFR || q.kind == dns.TypeIXFR {
		return dns.RcodeRefused, true
	}
	if binary.BigEndian.Uint32(counts[2:]) != 0 {
		return dns.RcodeFormatError, true
	}
	if rcode := q.parseAdditional(b, off, int(binary.BigEndian.Uint16(counts[6:]))); rcode != 0 {
		return rcode, true
	}
	switch {
	case q.kind == 0 || q.kind == dns.TypeOPT:
		return dns.RcodeFormatError, true
	case q.kind >= 128 && q.kind <= 255: // meta types, ANY among them (RFC 6895 section 3.1)
		return dns.RcodeNotImplemented, true
	case q.class != dns.ClassINET:
		return dns.RcodeRefused, true
	}
	return 0, true
}

// parseQuestion reads the question and returns where it ends. Its name cannot
// be compressed, since nothing precedes it.
func (q *query) parseQuestion(b []byte) (end int, ok bool) {
	off := headerSize
	for {
		if off >= len(b) {
			return 0, false
		}
		n := int(b[off])
		if n > 63 || off+1+n > len(b) || off+1+n-headerSize > maxName {
			return 0, false
		}
		if off++; n == 0 {
			break
		}
		off += n
	}
	if off+4 > len(b) {
		return 0, false
	}
	q.name = b[headerSize:off]
	for i, c := range q.name { // a label length is below 'A'
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		q.lower[i] = c
	}
	q.kind, q.class = binary.BigEndian.Uint16(b[off:]), binary.BigEndian.Uint16(b[off+2:])
	return off + 4, true
}

// parseAdditional looks for OPT among n records and returns a response code.
func (q *query) parseAdditional(b []byte, off, n int) (rcode int) {
	version := byte(0)
	for range n {
		root := off < len(b) && b[off] == 0
		off = skipName(b, off)
		if off < 0 || off+10 > len(b) {
			return dns.RcodeFormatError
		}
		kind, class := binary.BigEndian.Uint16(b[off:]), binary.BigEndian.Uint16(b[off+2:])
		if kind == dns.TypeOPT {
			if q.edns || !root { // RFC 6891 section 6.1.1
				return dns.RcodeFormatError
			}
			q.edns, q.payload = true, class
			version = b[off+5]
			q.do = b[off+6]&0x80 != 0
		}
		off += 10 + int(binary.BigEndian.Uint16(b[off+8:]))
		if off > len(b) {
			return dns.RcodeFormatError
		}
	}
	if version != 0 {
		return dns.RcodeBadVers
	}
	return 0
}

// skipName returns where the name at off ends, negative if it does not.
func skipName(b []byte, off int) int {
	for off < len(b) {
		switch n := int(b[off]); {
		case n == 0:
			return off + 1
		case n >= 0xc0:
			return off + 2 // may be past the end: the caller checks
		case n > 63:
			return -1
		default:
			off += 1 + n
		}
	}
	return -1
}
