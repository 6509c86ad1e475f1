package dns

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	maxConns        = 256 // TCP connections in all
	maxConnsPerPeer = 16
	connIdle        = 10 * time.Second // between two queries (RFC 7766 section 6.2.3)
	writeTimeout    = 10 * time.Second // for a client that does not read

	// maxPipelined is how many queries of one connection may wait for their
	// answers; the next one is not read before there is room.
	maxPipelined = 16
)

// tcpServer answers on one TCP socket.
type tcpServer struct {
	server *Server
	ln     net.Listener

	mu     sync.Mutex
	conns  map[*tcpConn]struct{}
	peers  map[netip.Addr]int
	closed bool
}

func newTCPServer(s *Server, ln net.Listener) *tcpServer {
	return &tcpServer{server: s, ln: ln, conns: make(map[*tcpConn]struct{}), peers: make(map[netip.Addr]int)}
}

// close closes the listener and every connection.
func (t *tcpServer) close() {
	t.mu.Lock()
	t.closed = true
	conns := t.conns
	t.conns = make(map[*tcpConn]struct{})
	t.mu.Unlock()
	_ = t.ln.Close()
	for c := range conns {
		_ = c.conn.Close()
	}
}

// acceptLoop serves connections until Close. Each has two goroutines, which
// end when it is closed and which Close waits for.
func (t *tcpServer) acceptLoop() {
	for {
		conn, err := t.ln.Accept()
		if err == nil {
			t.accepted(conn)
			continue
		}
		select {
		case <-t.server.done:
			return
		case <-time.After(readPause):
		}
	}
}

func (t *tcpServer) accepted(conn net.Conn) {
	c := &tcpConn{
		server:  t.server,
		conn:    conn,
		peer:    addrPort(conn.RemoteAddr()).Addr().Unmap(),
		pending: make(chan struct{}, maxPipelined),
		answers: make(chan []byte, maxPipelined),
	}
	if !t.add(c) {
		_ = conn.Close()
		return
	}
	if !t.server.begin() {
		t.remove(c)
		return
	}
	go func() {
		defer t.server.wg.Done()
		defer t.remove(c)
		c.serve()
	}()
}

func (t *tcpServer) add(c *tcpConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.conns) >= maxConns || t.peers[c.peer] >= maxConnsPerPeer {
		return false
	}
	t.conns[c] = struct{}{}
	t.peers[c.peer]++
	return true
}

func (t *tcpServer) remove(c *tcpConn) {
	_ = c.conn.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
	if t.peers[c.peer]--; t.peers[c.peer] == 0 {
		delete(t.peers, c.peer)
	}
}

// tcpConn is one connection. Its reader takes a place in pending for each
// query, and its writer frees it with the answer, so answers always has room.
type tcpConn struct {
	server  *Server
	conn    net.Conn
	peer    netip.Addr
	pending chan struct{}
	answers chan []byte // with length prefix
}

// send queues an answer. It does not block; b is not kept.
func (c *tcpConn) send(b []byte) {
	framed := make([]byte, 0, 2+len(b))
	framed = binary.BigEndian.AppendUint16(framed, uint16(len(b)))
	c.answers <- append(framed, b...)
}

// serve reads queries until the connection ends, and waits for the writer.
func (c *tcpConn) serve() {
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { c.writeLoop(stop) })
	c.readLoop()
	c.drain() // a client may close its side early and still read
	close(stop)
	writer.Wait()
}

func (c *tcpConn) readLoop() {
	defer c.server.recovered()
	r := bufio.NewReaderSize(c.conn, 512) // most queries fit
	var in, out []byte
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(connIdle))
		var size [2]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		in = slices.Grow(in[:0], n)[:n]
		if _, err := io.ReadFull(r, in); err != nil {
			return
		}
		select {
		case c.pending <- struct{}{}:
		case <-c.server.done:
			return
		}
		answer, later := c.server.handle(in, out, client{addr: c.peer, tcp: c})
		switch {
		case later: // send comes from a flight
		case answer == nil:
			<-c.pending
			return // not a query
		default:
			c.send(answer)
			out = answer
		}
	}
}

// writeLoop sends answers until stop is closed. Once the client does not take
// them it only makes room.
func (c *tcpConn) writeLoop(stop <-chan struct{}) {
	broken := false
	for {
		select {
		case <-stop:
			return
		case b := <-c.answers:
			if !broken {
				_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
				_, err := c.conn.Write(b)
				if broken = err != nil; broken {
					_ = c.conn.Close() // ends the reader
				}
			}
			<-c.pending
		}
	}
}

// drain waits until every query has its answer. Flights take no longer than
// forwardTimeout.
func (c *tcpConn) drain() {
	for range maxPipelined {
		select {
		case c.pending <- struct{}{}:
		case <-c.server.done:
			return
		}
	}
}
