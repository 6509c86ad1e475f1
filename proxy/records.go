package proxy

import (
	"net"
	"sync"
	"time"
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

	// Of the goroutine that sends: see endsWith.
	last, holding bool
}

// A short answer that ends its connection waits for the alert that says so.
const (
	maxLast      = 4 << 10
	lastOverhead = 256 // of its records, and the alert
)

// endsWith says that the connection ends with the next answer. If that is short, it
// leaves in one call with the alert that nothing follows (RFC 8446, section 6.1).
func (c *conn) endsWith() {
	if c.records != nil {
		c.records.last = true
	}
}

// send writes bytes of an answer: at once, but for the last ones.
func (c *conn) send(p []byte) (int, error) {
	w := c.records
	if w == nil || len(p) <= maxRecord && !w.last {
		return c.Conn.Write(p)
	}
	if w.last {
		if len(p) <= maxLast && !w.holding {
			w.holding = true
			w.gather(make([]byte, 0, len(p)+lastOverhead))
			return c.Conn.Write(p)
		}
		if err := w.flush(); err != nil {
			return 0, err
		}
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
func (w *recordWriter) CloseWrite() error {
	w.finish()
	return closeWrite(w.socket)
}

// Close may be called while a write waits, to end it.
func (w *recordWriter) Close() error {
	w.finish()
	return w.socket.Close()
}

// finish writes what was kept for the end. If somebody is writing, nothing was.
func (w *recordWriter) finish() {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	if len(w.held) > 0 {
		w.writeBy = time.Time{} // crypto/tls allows its alert less than an answer gets
		_, _ = w.socket.Write(w.held)
	}
	w.gathering, w.held = false, nil
}

var _ net.Conn = (*recordWriter)(nil)
