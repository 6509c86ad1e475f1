package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// begin starts the answer to q in buf, whose content is overwritten. bits are
// added to those that every answer has.
func begin(buf []byte, q *query, bits uint16, rcode int) []byte {
	bits |= bitQR | bitRA | q.bits&(opcodeMask|bitRD|bitCD) | uint16(rcode&rcodeMask)
	buf = binary.BigEndian.AppendUint16(buf[:0], q.id)
	buf = binary.BigEndian.AppendUint16(buf, bits)
	if q.name == nil {
		return append(buf, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	buf = append(buf, 0, 1, 0, 0, 0, 0, 0, 0)
	buf = append(buf, q.name...)
	buf = binary.BigEndian.AppendUint16(buf, q.kind)
	return binary.BigEndian.AppendUint16(buf, q.class)
}

// Sections of a message, as places of their counts in the header.
const (
	sectionAnswer     = 6
	sectionAuthority  = 8
	sectionAdditional = 10
)

// record appends one record of class IN. Its owner is the tail of the
// question's name that starts ownerAt bytes into it.
func record[D string | []byte](buf []byte, section, ownerAt int, kind uint16, ttl uint32, data D) []byte {
	buf[section+1]++ // never more than a few
	buf = binary.BigEndian.AppendUint16(buf, 0xc000|uint16(headerSize+ownerAt))
	buf = binary.BigEndian.AppendUint16(buf, kind)
	buf = binary.BigEndian.AppendUint16(buf, dns.ClassINET)
	buf = binary.BigEndian.AppendUint32(buf, ttl)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(data)))
	return append(buf, data...)
}

// end appends OPT if the query had it (RFC 6891 section 6.1.1). rcode is that
// of begin; OPT carries its upper bits.
func end(buf []byte, q *query, rcode int) []byte {
	if !q.edns {
		return buf
	}
	flags := uint16(0)
	if q.do {
		flags = 1 << 15
	}
	buf[sectionAdditional+1]++
	buf = append(buf, 0)
	buf = binary.BigEndian.AppendUint16(buf, dns.TypeOPT)
	buf = binary.BigEndian.AppendUint16(buf, udpSize)
	buf = append(buf, byte(rcode>>4), 0)
	buf = binary.BigEndian.AppendUint16(buf, flags)
	return append(buf, 0, 0)
}

// refuse answers q with a bare response code.
func refuse(buf []byte, q *query, rcode int) []byte {
	return end(begin(buf, q, 0, rcode), q, rcode)
}

// limit is how long an answer to q may be, in bytes.
func (q *query) limit(tcp bool) int {
	switch {
	case tcp:
		return dns.MaxMsgSize
	case !q.edns || q.payload < dns.MinMsgSize:
		return dns.MinMsgSize // RFC 6891 section 6.2.3
	}
	return min(int(q.payload), udpSize)
}
