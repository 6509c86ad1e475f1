package relay

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxWaiting bounds the memory of one direction, in bytes: 100 ms of 1.8
	// Gbit/s in usual datagrams, more than this relay carries.
	maxWaiting = 32 << 20

	// usualSize is the capacity of most buffers: a datagram of an Ethernet.
	usualSize = 2048

	// burst is how many datagrams are taken out of the line under one lock.
	burst = 64
)

// parcel is a datagram on its way, for or from a client.
type parcel struct {
	due  time.Duration // since the relay started
	seq  uint64        // keeps the order of those that are due at once
	peer *client
	data []byte
}

func (p *parcel) before(o *parcel) bool {
	return p.due < o.due || p.due == o.due && p.seq < o.seq
}

// line is one direction: a queue in the order of time, which one goroutine
// empties.
type line struct {
	started time.Time
	send    func(*client, []byte) error
	wake    chan struct{} // something is due sooner than run knows; holds one

	mu       sync.Mutex
	path     Path
	rand     *rand.Rand
	dark     bool // drops everything
	heap     []parcel
	seq      uint64
	waiting  int           // bytes of buffers in use
	ordered  time.Duration // when the newest that keeps its place is due
	linkFree time.Duration // when everything accepted so far has passed the Rate
	spare    [][]byte
	counts   Counts
}

func newLine(started time.Time, path Path, seed, stream uint64, send func(*client, []byte) error) *line {
	return &line{
		started: started, send: send, wake: make(chan struct{}, 1),
		path: path, rand: rand.New(rand.NewPCG(seed, stream)),
	}
}

// put decides what becomes of a datagram and queues a copy of it.
func (l *line) put(peer *client, datagram []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Received++
	if l.dark {
		l.counts.Blackholed++
		return
	}
	f := l.path.draw(l.rand, datagram)
	if f.lost {
		l.counts.Lost++
		return
	}
	if l.waiting+2*max(len(datagram), usualSize) > maxWaiting {
		l.counts.Overflowed++
		return
	}
	now := time.Since(l.started)
	leaves, ok := l.passRate(now, len(datagram))
	if !ok {
		l.counts.Overflowed++
		return
	}
	due := leaves + l.path.Delay
	if l.path.Jitter > 0 {
		due += time.Duration(l.rand.Int64N(int64(l.path.Jitter)))
	}
	due = max(due, l.ordered) // neither jitter nor a shorter delay reorders
	l.ordered = due

	data := append(l.buffer(len(datagram)), datagram...)
	if f.corrupted {
		l.counts.Corrupted++
		flip(l.rand, data)
	}
	l.insert(parcel{due: due + f.held, peer: peer, data: data}, f.held > 0)
	if f.duplicated {
		l.counts.Duplicated++
		twin := append(l.buffer(len(data)), data...)
		l.insert(parcel{due: due + f.heldCopy, peer: peer, data: twin}, f.heldCopy > 0)
	}
}

// passRate returns when n bytes have passed the Rate, or false if the queue
// before it is full.
func (l *line) passRate(now time.Duration, n int) (time.Duration, bool) {
	if l.path.Rate == 0 {
		return now, true
	}
	begins := max(now, l.linkFree)
	backlog := (begins - now).Seconds() * float64(l.path.Rate)
	if int(backlog)+n > l.path.queue() {
		return 0, false
	}
	l.linkFree = begins + time.Duration(float64(n)/float64(l.path.Rate)*float64(time.Second))
	return l.linkFree, true
}

func (l *line) insert(p parcel, reordered bool) {
	if reordered {
		l.counts.Reordered++
	}
	l.seq++
	p.seq = l.seq
	l.waiting += cap(p.data)
	l.push(p)
	if l.heap[0].seq == p.seq {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run sends what is due until stop is closed.
func (l *line) run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	batch := make([]parcel, 0, burst)
	for {
		var next time.Duration
		batch, next = l.take(batch[:0])
		for i := range batch {
			err := l.send(batch[i].peer, batch[i].data)
			l.sent(batch[i].data, err)
		}
		if next <= 0 {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		timer.Reset(next)
		select {
		case <-stop:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// take appends what is due now to batch, and returns how long it is until the
// next one.
func (l *line) take(batch []parcel) ([]parcel, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.started)
	for len(l.heap) > 0 && len(batch) < burst && l.heap[0].due <= now {
		batch = append(batch, l.pop())
	}
	if len(l.heap) == 0 {
		return batch, time.Hour
	}
	return batch, l.heap[0].due - now
}

func (l *line) sent(data []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting -= cap(data)
	if err != nil {
		l.counts.Failed++
	} else {
		l.counts.Sent++
	}
	if cap(data) == usualSize {
		l.spare = append(l.spare, data[:0])
	}
}

// buffer returns an empty slice with room for n bytes.
func (l *line) buffer(n int) []byte {
	if n > usualSize {
		return make([]byte, 0, n)
	}
	last := len(l.spare) - 1
	if last < 0 {
		return make([]byte, 0, usualSize)
	}
	b := l.spare[last]
	l.spare = l.spare[:last]
	return b
}

// push and pop keep the binary heap.
func (l *line) push(p parcel) {
	l.heap = append(l.heap, p)
	for i := len(l.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !l.heap[i].before(&l.heap[up]) {
			return
		}
		l.heap[i], l.heap[up] = l.heap[up], l.heap[i]
		i = up
	}
}

func (l *line) pop() parcel {
	first, last := l.heap[0], len(l.heap)-1
	l.heap[0], l.heap[last] = l.heap[last], parcel{}
	l.heap = l.heap[:last]
	for i := 0; ; {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < last && l.heap[child].before(&l.heap[least]) {
				least = child
			}
		}
		if least == i {
			return first
		}
		l.heap[i], l.heap[least] = l.heap[least], l.heap[i]
		i = least
	}
}

func (l *line) set(path Path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path = path
}

func (l *line) darken(dark bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dark = dark
}

func (l *line) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Received++
	l.counts.Failed++
}

// read returns the counts; what is being sent right now still waits.
func (l *line) read() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.Waiting = c.Received + c.Duplicated - c.Sent - c.Lost - c.Overflowed - c.Blackholed - c.Failed
	return c
}
