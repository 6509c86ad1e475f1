package dns

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// cacheEntries and cacheBytes bound the cache: ten times the contract's
	// 1000 names, and the memory of ordinary answers with room to spare.
	cacheEntries = 10_000
	cacheBytes   = 16 << 20

	// cacheShards lets the readers of several cores look up at once.
	cacheShards = 16

	// maxEntryBytes keeps a few huge answers from emptying a shard.
	maxEntryBytes = 16 << 10

	maxPositiveTTL = 24 * time.Hour
	maxNegativeTTL = 5 * time.Minute // RFC 2308 section 5 suggests one to three hours at most

	// staleFor is how long an expired answer serves while upstreams are gone,
	// and staleTTL the seconds it is given then (RFC 8767 section 4).
	staleFor = time.Hour
	staleTTL = 30
)

// cached is an upstream answer in wire form, without OPT. It is not written
// once made.
type cached struct {
	msg    []byte   // header, question in lower case, records
	ttls   []uint16 // places of TTL fields in msg
	stored time.Duration
	ttl    time.Duration // zero: must not be kept
}

func (c *cached) fresh(now time.Duration) bool { return now < c.stored+c.ttl }
func (c *cached) gone(now time.Duration) bool  { return now >= c.stored+c.ttl+staleFor }

// answer writes c as the answer to q, or a truncated one if it is too long.
func (c *cached) answer(buf []byte, q *query, tcp bool, now time.Duration) []byte {
	rcode := int(c.msg[3] & rcodeMask)
	size := len(c.msg)
	if q.edns {
		size += optSize
	}
	if size > q.limit(tcp) {
		return end(begin(buf, q, bitTC, rcode), q, rcode)
	}
	buf = begin(buf, q, 0, rcode)
	copy(buf[sectionAnswer:headerSize], c.msg[sectionAnswer:])
	buf = append(buf, c.msg[len(buf):]...) // the question is as long as ours
	age, stale := uint32((now-c.stored)/time.Second), !c.fresh(now)
	for _, off := range c.ttls {
		field := buf[off:][:4]
		left := uint32(staleTTL)
		if !stale {
			left = binary.BigEndian.Uint32(field)
			left -= min(age, left)
		}
		binary.BigEndian.PutUint32(field, left)
	}
	return end(buf, q, rcode)
}

// cacheKey is room for what answers are told apart by: name, type, and the two
// bits that change what upstreams send.
type cacheKey [maxName + 3]byte

func (q *query) cacheKey(k *cacheKey) []byte {
	n := copy(k[:], q.key())
	binary.BigEndian.PutUint16(k[n:], q.kind)
	k[n+2] = 0
	if q.do {
		k[n+2] |= 1
	}
	if q.bits&bitCD != 0 {
		k[n+2] |= 2
	}
	return k[:n+3]
}

// cache keeps answers, the least recently used ones go first.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu    sync.Mutex
	nodes map[string]*node
	ring  node // next is the latest used, prev the earliest
	bytes int
}

type node struct {
	key        string
	value      *cached
	prev, next *node
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		s := &c.shards[i]
		s.nodes = make(map[string]*node)
		s.ring.prev, s.ring.next = &s.ring, &s.ring
	}
	return c
}

func (c *cache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%cacheShards]
}

// get returns what is kept for key, stale or not; nil if nothing is.
func (c *cache) get(key []byte, now time.Duration) *cached {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[string(key)]
	if n == nil {
		return nil
	}
	if n.value.gone(now) {
		s.removeLocked(n)
		return nil
	}
	n.unlink()
	s.pushLocked(n)
	return n.value
}

// put keeps v, unless it must not be kept.
func (c *cache) put(key []byte, v *cached) {
	if v.ttl <= 0 || len(v.msg) > maxEntryBytes {
		return
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.nodes[string(key)]; old != nil {
		s.removeLocked(old)
	}
	n := &node{key: string(key), value: v}
	s.nodes[n.key] = n
	s.bytes += n.size()
	s.pushLocked(n)
	for len(s.nodes) > cacheEntries/cacheShards || s.bytes > cacheBytes/cacheShards {
		s.removeLocked(s.ring.prev)
	}
}

// size is about what n holds, in bytes.
func (n *node) size() int { return 256 + len(n.key) + cap(n.value.msg) + 2*cap(n.value.ttls) }

func (n *node) unlink() { n.prev.next, n.next.prev = n.next, n.prev }

func (s *shard) pushLocked(n *node) {
	n.prev, n.next = &s.ring, s.ring.next
	n.prev.next, n.next.prev = n, n
}

func (s *shard) removeLocked(n *node) {
	n.unlink()
	delete(s.nodes, n.key)
	s.bytes -= n.size()
}

// ttlFields returns the places of the TTLs in a message, and reports whether
// it is whole.
func ttlFields(msg []byte) (fields []uint16, ok bool) {
	off := skipName(msg, headerSize)
	if off < 0 {
		return nil, false
	}
	off += 4
	records := 0
	for _, section := range [...]int{sectionAnswer, sectionAuthority, sectionAdditional} {
		records += int(binary.BigEndian.Uint16(msg[section:]))
	}
	for range records {
		off = skipName(msg, off)
		if off < 0 || off+10 > len(msg) || off > dns.MaxMsgSize-4 {
			return nil, false
		}
		fields = append(fields, uint16(off+4))
		off += 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
	}
	return fields, off == len(msg)
}
