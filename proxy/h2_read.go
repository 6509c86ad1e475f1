package proxy

import (
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2section is the field section that is being read: of a new request, of the
// trailers of one, or of a stream that nobody serves, which is decoded all the
// same.
type h2section struct {
	open    bool // more frames of it follow
	ended   bool // END_STREAM
	id      uint32
	size    int // compressed
	pieces  int
	request *h2stream // whose head it is
	stream  *h2stream // whose trailers it is
	code    http2.ErrCode
}

// emit takes the fields from the decoder.
func (s *h2section) emit(f hpack.HeaderField) {
	switch {
	case s.request != nil:
		s.request.bridge.head.add(f.Name, f.Value)
	case s.stream != nil:
		s.stream.trailers.add(f.Name, f.Value)
	}
}

// handle does what a frame asks for.
func (h *h2conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return h.handleData(f)
	case *http2.HeadersFrame:
		return h.handleHeaders(f)
	case *http2.ContinuationFrame:
		h.section.pieces++
		return h.decode(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return h.handleWindow(f)
	case *http2.RSTStreamFrame:
		return h.handleReset(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if err := h.settingsLocked(f); err != nil {
			return err
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			h.out = appendPing(h.queueLocked(), f.Data)
		}
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
	}
	// What is left is ignored: frames that nobody knows, and GOAWAY, after which a
	// client sends no new streams and closes when it has its answers.
	return h.strikeLocked(1)
}

// settingsLocked takes the settings of the client. Those of tables concern an
// encoder that uses none; frames of more than the default size are never sent.
func (h *h2conn) settingsLocked(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if f.NumSettings() > h2MaxSettings {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		if s.ID != http2.SettingInitialWindowSize {
			return nil
		}
		change := int64(s.Val) - h.initial
		h.initial = int64(s.Val)
		for _, st := range h.streams {
			if st.sendable += change; st.sendable > maxWindow {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			st.wake.Broadcast()
		}
		return nil
	})
	if err == nil {
		h.out = appendFrame(h.queueLocked(), 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
	}
	return err
}

// maxWindow is the largest window that there can be (RFC 9113, section 6.9.1).
const maxWindow = 1<<31 - 1

// smallWindow is a window that makes for frames which are mostly header.
const smallWindow = 64

func (h *h2conn) handleWindow(f *http2.WindowUpdateFrame) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.Increment < smallWindow {
		if err := h.strikeLocked(1); err != nil {
			return err
		}
	}
	if f.StreamID == 0 {
		if h.sendable += int64(f.Increment); h.sendable > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		for _, st := range h.streams {
			if st.wantsWindow {
				st.wake.Broadcast()
			}
		}
		return nil
	}
	if h.idleLocked(f.StreamID) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	st := h.streams[f.StreamID]
	if st == nil {
		return h.strikeLocked(1) // it may not know yet that the stream has ended
	}
	if st.sendable += int64(f.Increment); st.sendable > maxWindow {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	st.wake.Broadcast()
	return nil
}

// idleLocked reports whether a stream was never begun. None is begun by us.
func (h *h2conn) idleLocked(id uint32) bool { return id > h.maxID || id&1 == 0 }

func (h *h2conn) handleReset(f *http2.RSTStreamFrame) error {
	h.mu.Lock()
	if h.idleLocked(f.StreamID) {
		h.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	h.knownLocked(f.StreamID)
	st := h.streams[f.StreamID]
	cost := 1
	if st != nil && !st.outEnd {
		cost = calmReset
	}
	err := h.strikeLocked(cost)
	if st == nil {
		h.mu.Unlock()
		return err
	}
	st.reset = true
	st.loseLocked(errStreamReset) // unlocks
	return err
}

func (h *h2conn) handleData(f *http2.DataFrame) error {
	data, size := f.Data(), int64(f.Length)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idleLocked(f.StreamID) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if h.window -= size; h.window < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if len(data) == 0 && !f.StreamEnded() {
		if err := h.strikeLocked(1); err != nil {
			return err
		}
	}
	st := h.streams[f.StreamID]
	if st == nil || st.inEnd || st.lost != nil {
		h.creditLocked(nil, size)
		if h.endLocked(f.StreamID) == resetByUs {
			return nil // it was on its way
		}
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	if st.window -= size; st.window < 0 {
		h.creditLocked(nil, size)
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	if st.expects >= 0 {
		st.expects -= int64(len(data))
		if st.expects < 0 || st.expects > 0 && f.StreamEnded() {
			h.creditLocked(nil, size)
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
	}
	wanted := !st.answered() // else nobody reads it any more
	if wanted && !h.srv.kept(h.conn.tally).take(int64(len(data))) {
		h.creditLocked(nil, size)
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeEnhanceYourCalm}
	}
	st.inEnd = f.StreamEnded()                // now that no byte before it is missing
	h.creditLocked(st, size-int64(len(data))) // padding
	if wanted {
		st.keepLocked(data)
	} else {
		h.creditLocked(nil, int64(len(data)))
	}
	st.wake.Broadcast()
	return nil
}

// creditLocked gives back n bytes of the windows once that is worth a frame; st
// is nil where only the connection's counts.
func (h *h2conn) creditLocked(st *h2stream, n int64) {
	if h.credit += n; h.credit >= h2ConnWindow/4 {
		h.out = appendWindowUpdate(h.queueLocked(), 0, uint32(h.credit))
		h.window += h.credit
		h.credit = 0
	}
	if st == nil || st.inEnd || st.lost != nil {
		return
	}
	if st.credit += n; st.credit >= h2StreamWindow/4 {
		h.out = appendWindowUpdate(h.queueLocked(), st.id, uint32(st.credit))
		st.window += st.credit
		st.credit = 0
	}
}

func (h *h2conn) handleHeaders(f *http2.HeadersFrame) error {
	id := f.StreamID
	if id&1 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	s := &h.section
	*s = h2section{open: true, ended: f.StreamEnded(), id: id}
	h.mu.Lock()
	switch {
	case id > h.maxID:
		h.maxID = id
		if !h.draining {
			h.served = id
		}
		switch {
		case h.draining: // it will find out
		case h.open >= h2MaxStreams:
			s.code = http2.ErrCodeRefusedStream
		default:
			s.request = h.newStream(id)
		}
	case h.endLocked(id) == resetByUs: // it was on its way
	case h.streams[id] == nil:
		how := h.endLocked(id)
		h.mu.Unlock()
		if how == notKnown { // skipped, mostly
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	default:
		switch st := h.streams[id]; {
		case st.inEnd && st.outEnd && !st.reset: // closed, if only just
			h.mu.Unlock()
			return http2.ConnectionError(http2.ErrCodeStreamClosed)
		case st.lost != nil || st.inEnd:
			s.code = http2.ErrCodeStreamClosed
		case !s.ended, st.bridge.head.protocol:
			s.code = http2.ErrCodeProtocol // a second head, or trailers where there are none (RFC 9113, section 8.5)
		default:
			s.stream = st
		}
	}
	h.mu.Unlock()
	if f.HasPriority() && f.Priority.StreamDep == id {
		s.code = http2.ErrCodeProtocol
	}
	return h.decode(f.HeaderBlockFragment(), f.HeadersEnded())
}

// decode takes a part of a field section, and with the last one what it is for.
func (h *h2conn) decode(b []byte, last bool) error {
	s := &h.section
	s.size += len(b)
	if s.size > h2MaxBlock || s.pieces > h2MaxPieces {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if _, err := h.decoder.Write(b); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil // the deadline of the first wait holds for the whole section
	}
	if h.decoder.Close() != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	done := *s
	*s = h2section{}
	switch {
	case done.code != 0:
		if done.request != nil {
			done.request.release()
		}
		return http2.StreamError{StreamID: done.id, Code: done.code}
	case done.request != nil:
		return h.begin(done.request, done.ended)
	case done.stream != nil:
		return h.endBody(done.stream)
	}
	return nil
}

// endBody takes the trailers of a request.
func (h *h2conn) endBody(st *h2stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st.trailers.malformed || st.expects > 0 {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	st.inEnd = true
	st.wake.Broadcast()
	return nil
}

// begin starts the handler of a request whose head is complete.
func (h *h2conn) begin(st *h2stream, ended bool) error {
	head := &st.bridge.head
	status := head.finish(ended)
	if status == malformed {
		id := st.id
		st.release()
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
	}
	if !h.conn.tally.ask(&h.srv.limits) {
		h.srv.hits.at(limitStreams)
		id := st.id
		st.release()
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	st.status, st.inEnd, st.expects = status, ended, head.length
	if status != 0 {
		st.expects = unknownLength // not worth a look
	}
	h.mu.Lock()
	st.sendable = h.initial
	h.streams[st.id] = st
	h.open++
	h.workers.Add(1)
	h.mu.Unlock()
	if !ended && head.length > 0 && head.length <= maxInlineBody && !head.expects {
		h.deferred = append(h.deferred, st)
		return nil
	}
	h.srv.workers.start(st) // awaited by end
	return nil
}

// startDeferred starts the handlers that wait for what the client may have sent
// together with a head.
func (h *h2conn) startDeferred() {
	for i, st := range h.deferred {
		h.srv.workers.start(st) // awaited by end
		h.deferred[i] = nil
	}
	h.deferred = h.deferred[:0]
}
