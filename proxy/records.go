package proxy

import (
	"net"
	"sync"
)

// maxRecord is the longest content of a TLS record (RFC 8446, section 5.1).
const maxRecord = 16 << 10

// recordBuffer has room for what a piece becomes as TLS records: each adds up to 29
// bytes, and those at the start of a connection are as short as a packet.
type recordBuffer [pieceSize + 4<<10]byte

// recordWriter is the socket below TLS. crypto/tls writes each record by itself; it
// has those of one piece leave in one call, which costs the system half as much.
type recordWriter struct {
	*socket

	mu        sync.Mutex // a reader may answer a message of the handshake
	gathering bool
	held      []byte
}

// send writes bytes of an answer at once.
func (c *conn) send(p []byte) (int, error) {
	if c.records == nil || len(p) <= maxRecord {
		return c.Conn.Write(p)
	}
	buf := c.srv.records.Get().(*recordBuffer)
	defer c.srv.records.Put(buf)
	c.records.gather(buf[:0])
	n, err := c.Conn.Write(p)
	if ferr := c.records.flush(); err == nil && ferr != nil {
		return 0, ferr
	}
	return n, err
}

// gather keeps what is written in buf, until that is full or flush is called.
func (w *recordWriter) gather(buf []byte) {
	w.mu.Lock()
	w.gathering, w.held = true, buf
	w.mu.Unlock()
}

// flush writes what was kept, and ends gathering.
func (w *recordWriter) flush() (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) > 0 {
		_, err = w.socket.Write(w.held)
	}
	w.gathering, w.held = false, nil
	return err
}

func (w *recordWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gathering {
		return w.socket.Write(p)
	}
	if len(w.held)+len(p) > cap(w.held) {
		if _, err := w.socket.Write(w.held); err != nil {
			return 0, err
		}
		w.held = w.held[:0]
	}
	if len(p) > cap(w.held) {
		return w.socket.Write(p)
	}
	w.held = append(w.held, p...)
	return len(p), nil
}

// CloseWrite ends the sending direction.
func (w *recordWriter) CloseWrite() error { return closeWrite(w.socket) }

var _ net.Conn = (*recordWriter)(nil)
