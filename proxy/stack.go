package proxy

// stackRoom is what a handshake needs of the stack. Requests without TLS need less, and
// their connections may idle for long.
const stackRoom = 12 << 10

// growStack has the stack of the goroutine grow once to what will be needed. By itself
// it would double several times on the way, and be copied each time: that costs more
// than the rest of a new goroutine. The argument is false; room is never touched.
//
//go:noinline
func growStack(touch bool) (sum byte) {
	if touch {
		var room [stackRoom]byte
		for i := range room {
			room[i] = byte(i) + sum
			sum ^= room[len(room)-1-i]
		}
	}
	return sum
}
