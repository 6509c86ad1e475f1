package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

const (
	// fragmentSets bounds the fragmented datagrams that are watched or put together
	// at once. The oldest makes room for a new one.
	fragmentSets = 256

	// fragmentSpans bounds the separate pieces of one datagram. Fragments mostly
	// arrive in order and join into one piece.
	fragmentSpans = 16

	// fragmentAge is how long an incomplete datagram is watched, and one with an
	// overlap refused: as long as common receivers wait for the rest. Longer
	// would hurt fast senders, whose 16-bit datagram numbers come round again.
	fragmentAge = 30 * time.Second
)

// fragments refuses fragments that overlap what came before, since two machines
// may put such a datagram together differently (RFC 5722). The stack does that
// itself for what it reassembles; this is for packets that pass without it.
type fragments struct {
	mu   sync.Mutex
	sets map[fragmentKey]*fragmentSet
}

// fragmentKey names one datagram: RFC 791 section 3.2 and, without a protocol,
// RFC 8200 section 4.5.
type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type fragmentSet struct {
	since time.Time
	bad   bool   // an overlap was seen: nothing more of it passes
	spans []span // apart from each other, in order
	end   int    // of the datagram; 0 until its last fragment was seen
	whole []byte // what came, at its place behind room for a header; only of join
}

// span is a range of bytes [from, to).
type span struct{ from, to int }

// parseFragment tells which part of which datagram a packet is, and whether it
// is the last one.
func parseFragment(p []byte) (key fragmentKey, s span, last, ok bool) {
	if len(p) > 0 && p[0]>>4 == 6 {
		h, ok := parseIPv6(p)
		key = fragmentKey{src: netip.AddrFrom16(h.src), dst: netip.AddrFrom16(h.dst), id: h.id}
		return key, span{h.offset, h.offset + h.total - h.length}, !h.more, ok && h.fragment
	}
	h, ok := parseIPv4(p)
	if !ok {
		return key, s, false, false
	}
	key = fragmentKey{address(h.src), address(h.dst), uint32(binary.BigEndian.Uint16(p[4:])), h.proto}
	return key, span{h.offset, h.offset + h.total - h.length}, !h.more, true
}

// accept reports whether a fragment that passed the filter may go on.
func (f *fragments) accept(p []byte) bool {
	key, s, last, ok := parseFragment(p)
	if !ok {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _, ok = f.add(key, s, last)
	return ok
}

// join copies an IPv6 fragment that passed the filter. With the last that was
// missing it returns the packet (RFC 8200 section 4.5), before that nil.
func (f *fragments) join(p []byte) (packet []byte) {
	h, parsed := parseIPv6(p)
	key, s, last, ok := parseFragment(p)
	if !parsed || !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	set, complete, ok := f.add(key, s, last)
	if !ok {
		return nil
	}
	if need := ipv6Header + s.to - len(set.whole); need > 0 {
		set.whole = append(set.whole, make([]byte, need)...)
	}
	copy(set.whole[ipv6Header+s.from:], p[h.length:h.total])
	if s.from == 0 {
		copy(set.whole, p[:ipv6Header])
		set.whole[6] = h.proto
	}
	if !complete {
		return nil
	}
	binary.BigEndian.PutUint16(set.whole[4:], uint16(set.end))
	return set.whole
}

// add records part s of a datagram, and reports false if no more of it may go on,
// or whether it is complete, and forgotten then. mu is held.
func (f *fragments) add(key fragmentKey, s span, last bool) (set *fragmentSet, complete, ok bool) {
	now := time.Now()
	set = f.sets[key]
	if set == nil || now.Sub(set.since) > fragmentAge {
		f.makeRoom(now)
		set = &fragmentSet{since: now}
		f.sets[key] = set
	}
	if set.bad || !set.add(s) {
		set.bad, set.whole = true, nil
		return set, false, false
	}
	if last {
		set.end = s.to
	}
	if complete = len(set.spans) == 1 && set.spans[0] == (span{0, set.end}); complete {
		delete(f.sets, key)
	}
	return set, complete, true
}

// makeRoom forgets what is too old, and the oldest set if there is no room.
func (f *fragments) makeRoom(now time.Time) {
	if f.sets == nil {
		f.sets = make(map[fragmentKey]*fragmentSet)
	}
	if len(f.sets) < fragmentSets {
		return
	}
	var oldest fragmentKey
	since := now
	for key, set := range f.sets {
		if now.Sub(set.since) > fragmentAge {
			delete(f.sets, key)
		} else if !set.since.After(since) {
			oldest, since = key, set.since
		}
	}
	if len(f.sets) >= fragmentSets {
		delete(f.sets, oldest)
	}
}

// add records s. It reports false if s overlaps a span or is one too many.
func (set *fragmentSet) add(s span) bool {
	i := 0
	for i < len(set.spans) && set.spans[i].to <= s.from {
		i++
	}
	if i < len(set.spans) && set.spans[i].from < s.to {
		return false
	}
	left := i > 0 && set.spans[i-1].to == s.from
	right := i < len(set.spans) && set.spans[i].from == s.to
	switch {
	case left && right:
		set.spans[i-1].to = set.spans[i].to
		set.spans = append(set.spans[:i], set.spans[i+1:]...)
	case left:
		set.spans[i-1].to = s.to
	case right:
		set.spans[i].from = s.from
	case len(set.spans) >= fragmentSpans:
		return false
	default:
		set.spans = append(set.spans, span{})
		copy(set.spans[i+1:], set.spans[i:])
		set.spans[i] = s
	}
	return true
}
