package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt maps its file into memory and trusts what it finds there: a page that
// lies makes it panic, touch memory behind the map or run in circles, some of it
// in goroutines of its own, where nothing can be recovered. So the file is read
// here first, in the plain way, and walked from end to end.

// maxChecked is how many pages are walked: 64 MiB of them, which even a memory
// card gives in two seconds. Only long histories have more.
const maxChecked = 1 << 14

// Layout of a bbolt file (its internal/common), in the byte order of the machine.
// A page is a header of 16 bytes, elements of 16 bytes, then keys and values.
const (
	pageHeader = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elemSize   = 16 // leaf: flags, pos, ksize, vsize uint32; branch: pos, ksize uint32, child uint64
	bucketSize = 16 // root uint64, sequence uint64; root 0: a leaf page follows

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketEntry  = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSummed  = 56 // bytes under the FNV-1a checksum that follows them
	metaSize    = metaSummed + 8
	minPageSize = 512
	maxPageSize = 1 << 20
	noFreelist  = 1<<64 - 1 // the free pages are not stored
)

var native = binary.NativeEndian

// fileMeta is what a meta page says.
type fileMeta struct {
	pageSize             int64
	root, freelist, used uint64 // used is the number of pages
	txid                 uint64
}

// parseMeta reads a meta page; ok is false unless it is one, and whole.
func parseMeta(page []byte) (m fileMeta, ok bool) {
	if len(page) < pageHeader+metaSize {
		return m, false
	}
	b := page[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSummed])
	m = fileMeta{
		pageSize: int64(native.Uint32(b[8:])), root: native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]), used: native.Uint64(b[40:]), txid: native.Uint64(b[48:]),
	}
	return m, native.Uint32(b) == metaMagic && native.Uint32(b[4:]) == metaVersion && native.Uint64(b[metaSummed:]) == sum.Sum64() &&
		m.pageSize >= minPageSize && m.pageSize <= maxPageSize && m.pageSize&(m.pageSize-1) == 0
}

// readMeta returns the newer one of the two meta pages that are whole. The first
// one is at the start; where the second one is, it has to tell itself if the
// first one cannot.
func readMeta(f io.ReaderAt) (fileMeta, error) {
	at := func(off int64) (fileMeta, bool) {
		page := make([]byte, pageHeader+metaSize)
		n, _ := f.ReadAt(page, off)
		return parseMeta(page[:n])
	}
	first, ok := at(0)
	if ok {
		if second, ok := at(first.pageSize); ok && second.pageSize == first.pageSize && second.txid > first.txid {
			return second, nil
		}
		return first, nil
	}
	for size := int64(minPageSize); size <= maxPageSize; size *= 2 {
		if m, ok := at(size); ok && m.pageSize == size {
			return m, nil
		}
	}
	return first, fmt.Errorf("not a store, or both of its headers are broken")
}

// checkFile walks the file at path. No other process may be writing it.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := readMeta(f)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if m.used < 4 || m.used > uint64(fi.Size()/m.pageSize) {
		return fmt.Errorf("it has %d bytes, which do not hold its %d pages", fi.Size(), m.used)
	}
	w := &walk{f: f, meta: m, seen: make([]bool, m.used)}
	w.seen[0], w.seen[1] = true, true // the meta pages
	if err := w.tree(m.root, nil, nil, w.bucketsOnly); err != nil {
		return err
	}
	return w.free()
}

// walk visits the pages of a file, each at most once.
type walk struct {
	f     io.ReaderAt
	meta  fileMeta
	seen  []bool
	count int
}

// full reports whether enough was walked.
func (w *walk) full() bool { return w.count >= maxChecked }

// filePage is a page with those that overflow from it, or one inside a value.
type filePage struct {
	id    uint64
	flags uint16
	n     int
	data  []byte // header included
}

func (p *filePage) errorf(format string, args ...any) error {
	return fmt.Errorf("page %d: "+format, append([]any{p.id}, args...)...)
}

func parsePage(id uint64, data []byte) (*filePage, error) {
	p := &filePage{id: id, data: data}
	if len(data) < pageHeader {
		return nil, p.errorf("too short")
	}
	p.flags, p.n = native.Uint16(data[8:]), int(native.Uint16(data[10:]))
	return p, nil
}

// page reads page id, which must not have been met before.
func (w *walk) page(id uint64) (*filePage, error) {
	if id < 2 || id >= w.meta.used {
		return nil, fmt.Errorf("page %d: there is none", id)
	}
	head := make([]byte, w.meta.pageSize)
	if _, err := w.f.ReadAt(head, int64(id)*w.meta.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	own, overflow := native.Uint64(head), uint64(native.Uint32(head[12:]))
	if own != id {
		return nil, fmt.Errorf("page %d: calls itself %d", id, own)
	}
	if overflow >= w.meta.used-id {
		return nil, fmt.Errorf("page %d: reaches beyond the end", id)
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("page %d: belongs to two places", i)
		}
		w.seen[i] = true
	}
	w.count += int(overflow) + 1
	if overflow > 0 {
		rest := make([]byte, int64(overflow)*w.meta.pageSize)
		if _, err := w.f.ReadAt(rest, int64(id+1)*w.meta.pageSize); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
		head = append(head, rest...)
	}
	return parsePage(id, head)
}

// entryCheck judges an entry of a leaf by its kind.
type entryCheck func(p *filePage, kind uint32, value []byte) error

// bucketsOnly is for the root of a file, which holds nothing else.
func (w *walk) bucketsOnly(p *filePage, kind uint32, value []byte) error {
	if kind != bucketEntry {
		return p.errorf("an entry of type %#x among the buckets", kind)
	}
	return w.bucket(p, value)
}

// records is for everything below.
func (w *walk) records(p *filePage, kind uint32, _ []byte) error {
	if kind != 0 {
		return p.errorf("an entry of type %#x among the records", kind)
	}
	return nil
}

// tree checks a page and what is below it. Every key is at least low and less
// than high; nil is no bound.
func (w *walk) tree(id uint64, low, high []byte, entry entryCheck) error {
	if w.full() {
		return nil
	}
	p, err := w.page(id)
	if err != nil {
		return err
	}
	if p.flags == leafPage {
		return w.leaf(p, low, high, entry)
	}
	if p.flags != branchPage || p.n == 0 {
		return p.errorf("is of type %#x with %d entries inside of a tree", p.flags, p.n)
	}
	keys, children := make([][]byte, p.n), make([]uint64, p.n)
	for i := range p.n {
		e, err := p.elem(i)
		if err != nil {
			return err
		}
		if keys[i], err = p.slice(i, native.Uint32(e), native.Uint32(e[4:])); err != nil {
			return err
		}
		children[i] = native.Uint64(e[8:])
	}
	if err := p.order(keys, low, high); err != nil {
		return err
	}
	for i, child := range children {
		next := high
		if i+1 < len(keys) {
			next = keys[i+1]
		}
		if err := w.tree(child, keys[i], next, entry); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) leaf(p *filePage, low, high []byte, entry entryCheck) error {
	keys := make([][]byte, p.n)
	for i := range p.n {
		e, err := p.elem(i)
		if err != nil {
			return err
		}
		pos, ksize, vsize := native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		if keys[i], err = p.slice(i, pos, ksize); err != nil {
			return err
		}
		value, err := p.slice(i, pos, ksize, vsize)
		if err != nil {
			return err
		}
		if err := entry(p, native.Uint32(e), value[ksize:]); err != nil {
			return err
		}
	}
	return p.order(keys, low, high)
}

// bucket checks the tree of a bucket, or the page that a small one has in place.
func (w *walk) bucket(p *filePage, value []byte) error {
	if len(value) < bucketSize {
		return p.errorf("a bucket of %d bytes", len(value))
	}
	if root := native.Uint64(value); root != 0 {
		return w.tree(root, nil, nil, w.records)
	}
	inline, err := parsePage(p.id, value[bucketSize:])
	if err != nil {
		return err
	}
	if inline.flags != leafPage {
		return p.errorf("a small bucket is of type %#x", inline.flags)
	}
	return w.leaf(inline, nil, nil, w.records)
}

// elem returns the head of entry i.
func (p *filePage) elem(i int) ([]byte, error) {
	at := pageHeader + i*elemSize
	if at+elemSize > len(p.data) {
		return nil, p.errorf("has no room for %d entries", p.n)
	}
	return p.data[at : at+elemSize], nil
}

// slice returns what is pos bytes behind the head of entry i, as long as the
// sizes together.
func (p *filePage) slice(i int, pos uint32, sizes ...uint32) ([]byte, error) {
	from := uint64(pageHeader+i*elemSize) + uint64(pos)
	to := from
	for _, n := range sizes {
		to += uint64(n)
	}
	if from < uint64(pageHeader+p.n*elemSize) && to > from || to > uint64(len(p.data)) {
		return nil, p.errorf("entry %d lies outside of it", i)
	}
	return p.data[from:to], nil
}

func (p *filePage) order(keys [][]byte, low, high []byte) error {
	for i, k := range keys {
		if i == 0 && bytes.Compare(k, low) < 0 || i > 0 && bytes.Compare(k, keys[i-1]) <= 0 || high != nil && bytes.Compare(k, high) >= 0 {
			return p.errorf("entry %d is out of order", i)
		}
	}
	return nil
}

// free checks the list of free pages: these and the ones in use make up the file.
func (w *walk) free() error {
	if w.meta.freelist == noFreelist {
		return nil
	}
	p, err := w.page(w.meta.freelist)
	if err != nil {
		return err
	}
	ids, n := p.data[pageHeader:], uint64(p.n)
	if n == 0xFFFF && len(ids) >= 8 { // too many for the header
		n, ids = native.Uint64(ids), ids[8:]
	}
	if p.flags != freelistPage || n > uint64(len(ids)/8) {
		return p.errorf("is of type %#x and no list of %d free pages", p.flags, n)
	}
	for i := range n {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= w.meta.used {
			return p.errorf("frees page %d, which there is none of", id)
		}
		if w.seen[id] {
			return p.errorf("frees page %d, which is in use or free already", id)
		}
		w.seen[id] = true
	}
	for id, seen := range w.seen {
		if !seen && !w.full() {
			return fmt.Errorf("page %d: is neither in use nor free", id)
		}
	}
	return nil
}
