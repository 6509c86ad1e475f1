package netstack

// ring is a queue of fixed capacity. It is not safe for concurrent use.
type ring[T any] struct {
	slots []T
	head  int // of the oldest element
	n     int
}

func newRing[T any](capacity int) ring[T] { return ring[T]{slots: make([]T, capacity)} }

func (r *ring[T]) len() int   { return r.n }
func (r *ring[T]) full() bool { return r.n == len(r.slots) }

// push appends v; the ring must not be full.
func (r *ring[T]) push(v T) {
	r.slots[(r.head+r.n)%len(r.slots)] = v
	r.n++
}

// pop takes the oldest element; the ring must not be empty.
func (r *ring[T]) pop() T {
	var zero T
	v := r.slots[r.head]
	r.slots[r.head] = zero // so that it can be collected
	r.head = (r.head + 1) % len(r.slots)
	r.n--
	return v
}
