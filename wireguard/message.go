package wireguard

import "encoding/binary"

// Messages on the wire (WireGuard paper, sections 5.4.2 to 5.4.7). All numbers
// are little endian; sizes and offsets are bytes.
const (
	typeInitiation = 1 // type 4, sender 4, ephemeral 32, static 48, time 28, mac1 16, mac2 16
	typeResponse   = 2 // type 4, sender 4, receiver 4, ephemeral 32, empty 16, mac1 16, mac2 16
	typeCookie     = 3 // type 4, receiver 4, nonce 24, cookie 32
	typeData       = 4 // type 4, receiver 4, counter 8, packet, tag 16

	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64

	initiationNoise = 8  // where the encrypted part begins
	responseNoise   = 12 // the same
	macsSize        = 32

	// headerSize is what stands before the packet in a data message, overhead
	// that and the tag behind it. An empty packet is a keepalive.
	headerSize = 16
	overhead   = headerSize + tagSize

	// padding makes sizes of packets coarser, up to the MTU.
	padding = 16
)

// messageType returns the type of a message and 0 for what is none.
func messageType(m []byte) uint32 {
	if len(m) < overhead {
		return 0
	}
	switch t := binary.LittleEndian.Uint32(m); {
	case t == typeData, t == typeInitiation && len(m) == initiationSize,
		t == typeResponse && len(m) == responseSize, t == typeCookie && len(m) == cookieSize:
		return t
	}
	return 0
}

// receiver returns the index that the addressee gave for its answers.
func receiver(m []byte) uint32 {
	if m[0] == typeResponse {
		return binary.LittleEndian.Uint32(m[8:])
	}
	return binary.LittleEndian.Uint32(m[4:])
}

// sender returns the index that the sender of a handshake message has given.
func sender(m []byte) uint32 { return binary.LittleEndian.Uint32(m[4:]) }
