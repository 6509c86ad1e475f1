package proxy

import "sync"

// chunkRoom is the room before the data of a piece, for a chunk size and CRLF; as
// much as a CRLF is left behind it.
const chunkRoom = 10

// spool keeps the beginning of a body in pieces. Each has room for its chunk
// frame, so that it can be sent from where it is. One goroutine at a time.
type spool struct {
	pieces []*piece
	last   int // bytes in the last piece
	size   int // bytes in all
}

// room returns where the next bytes go, nil if there is nothing left for the client.
func (sp *spool) room(pool *sync.Pool, of share) []byte {
	if n := len(sp.pieces); n > 0 && chunkRoom+sp.last < pieceSize-2 {
		return sp.pieces[n-1][chunkRoom+sp.last : pieceSize-2]
	}
	if !of.take(pieceSize) {
		return nil
	}
	sp.pieces, sp.last = append(sp.pieces, pool.Get().(*piece)), 0
	return sp.pieces[len(sp.pieces)-1][chunkRoom : pieceSize-2]
}

// added says that n bytes were put where room said.
func (sp *spool) added(n int) {
	sp.last += n
	sp.size += n
}

// filled returns the number of bytes in piece i.
func (sp *spool) filled(i int) int {
	if i == len(sp.pieces)-1 {
		return sp.last
	}
	return pieceSize - 2 - chunkRoom
}

// release gives everything back.
func (sp *spool) release(pool *sync.Pool, of share) {
	for i, p := range sp.pieces {
		pool.Put(p)
		sp.pieces[i] = nil
	}
	of.give(int64(len(sp.pieces)) * pieceSize)
	sp.pieces, sp.last, sp.size = sp.pieces[:0], 0, 0
}
