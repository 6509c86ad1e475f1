package proxy

import (
	"encoding/binary"
	"runtime"
	"time"

	"golang.org/x/net/http2"
)

// WriteHead queues the head of an answer.
func (st *h2stream) WriteHead(status int, fields []field, end, flush bool) error {
	st.block = appendSection(st.block[:0], status, fields)
	h := st.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := st.roomLocked(); err != nil {
		return err
	}
	st.sectionLocked(end)
	if flush || end {
		h.flushLocked()
	}
	return nil
}

// WriteTrailer queues the fields behind the body, which are the end, and sends.
func (st *h2stream) WriteTrailer(fields []field) error {
	st.block = appendSection(st.block[:0], 0, fields)
	h := st.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := st.roomLocked(); err != nil {
		return err
	}
	st.sectionLocked(true)
	h.flushLocked()
	return nil
}

// sectionLocked queues st.block as HEADERS, and CONTINUATION as needed.
func (st *h2stream) sectionLocked(end bool) {
	h := st.h
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	h.out = h.queueLocked()
	block := st.block
	if !h.cleared {
		// Once, the decoder is told that the encoder has no dynamic table (RFC
		// 7541, section 6.3).
		h.cleared = true
		block = append([]byte{0x20}, block...)
	}
	for {
		part := block[:min(len(block), h2MaxFrame)]
		if block = block[len(part):]; len(block) == 0 {
			flags |= http2.FlagHeadersEndHeaders
		}
		h.out = append(appendFrame(h.out, len(part), kind, flags, st.id), part...)
		if len(block) == 0 {
			break
		}
		kind, flags = http2.FrameContinuation, 0
	}
	if end {
		st.endedLocked()
	}
}

// endedLocked notes that our end is on its way.
func (st *h2stream) endedLocked() {
	st.outEnd = true
	st.h.earnLocked(calmEarned)
	if st.inEnd {
		st.uncountLocked()
	}
}

// roomLocked waits while the queue is full.
func (st *h2stream) roomLocked() error {
	h := st.h
	for {
		switch {
		case st.lost != nil:
			return st.lost
		case h.dead:
			return errH2Closed
		case len(h.out) < h2MaxQueue:
			return nil
		case h.writing:
			h.room.Wait() // the socket has its own limit
		default:
			h.flushLocked()
		}
	}
}

// WriteBody queues a piece of the body as far as the windows allow, and sends.
func (st *h2stream) WriteBody(p []byte, end bool) error {
	h := st.h
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if err := st.roomLocked(); err != nil {
			return err
		}
		// A window that the client has made smaller may be below zero.
		n := int(max(0, min(int64(len(p)), st.sendable, h.sendable, h2MaxFrame)))
		if n == 0 && len(p) > 0 {
			h.flushLocked()
			if min(st.sendable, h.sendable) <= 0 && st.lost == nil {
				if st.blocked.IsZero() {
					st.blocked = time.Now()
				}
				st.wantsWindow = true
				st.waitLocked()
				st.wantsWindow = false
			}
			continue
		}
		st.movedLocked()
		st.blocked = time.Time{}
		part := p[:n]
		p = p[n:]
		flags := http2.Flags(0)
		if end && len(p) == 0 {
			flags = http2.FlagDataEndStream
		}
		st.sendable -= int64(n)
		h.sendable -= int64(n)
		h.out = append(appendFrame(h.queueLocked(), n, http2.FrameData, flags, st.id), part...)
		if len(p) == 0 {
			h.earnLocked(1) // more than what a small window lets through
			break
		}
	}
	if end {
		st.endedLocked()
	}
	h.flushLocked()
	return nil
}

// flushLocked writes what is queued, unless somebody does so already, who then
// will take ours along. It unlocks h.mu while it writes.
func (h *h2conn) flushLocked() {
	if h.writing || len(h.out) == 0 {
		return
	}
	h.writing = true
	if h.open > 1 {
		// Other answers are about to be ready: let them come along.
		h.mu.Unlock()
		runtime.Gosched()
		h.mu.Lock()
	}
	h.writeLocked()
}

// flushSoonLocked has a goroutine write what is queued: for those who must not
// wait for the client.
func (h *h2conn) flushSoonLocked() {
	if h.writing || len(h.out) == 0 || h.dead {
		return
	}
	h.writing = true
	h.workers.Add(1)
	go func() { // awaited by end
		defer h.workers.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.writeLocked()
	}()
}

// writeLocked writes the queue until it is empty. A handler does not do so for
// ever: what others keep adding is left to a goroutine of its own.
func (h *h2conn) writeLocked() {
	const most = 4
	for turn := 0; len(h.out) > 0; turn++ {
		if turn == most && !h.dead {
			h.writing = false
			h.flushSoonLocked()
			return
		}
		buf := h.out
		h.out = nil
		h.mu.Unlock()
		_, err := h.conn.send(buf)
		h.mu.Lock()
		h.giveQueue(buf)
		h.room.Broadcast()
		if err != nil {
			h.out, h.dead = nil, true // or others would go on fetching what nobody gets
			_ = h.conn.sock.Close()   // whoever reads ends the rest
			break
		}
	}
	h.writing = false
	h.finishLocked()
}

// queueLocked returns the queue to append to. Its buffer is taken when needed, and
// given back once written.
func (h *h2conn) queueLocked() []byte {
	if h.out == nil {
		h.out = h.srv.h2queues.Get().(*h2queue)[:0]
	}
	return h.out
}

func (h *h2conn) giveQueue(b []byte) {
	if cap(b) == len(h2queue{}) { // has not grown
		h.srv.h2queues.Put((*h2queue)(b[:len(h2queue{})]))
	}
}

func appendFrame(b []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendSettings(b []byte, settings ...http2.Setting) []byte {
	b = appendFrame(b, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, uint16(s.ID)), s.Val)
	}
	return b
}

func appendWindowUpdate(b []byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, http2.FrameWindowUpdate, 0, id), n)
}

func appendReset(b []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, http2.FrameRSTStream, 0, id), uint32(code))
}

func appendGoAway(b []byte, last uint32, code http2.ErrCode) []byte {
	b = binary.BigEndian.AppendUint32(appendFrame(b, 8, http2.FrameGoAway, 0, 0), last)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendPing(b []byte, data [8]byte) []byte {
	return append(appendFrame(b, len(data), http2.FramePing, http2.FlagPingAck, 0), data[:]...)
}
