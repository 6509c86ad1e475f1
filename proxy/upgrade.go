package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

var errTooManyUpgrades = errors.New("too many open upgrades")

// upgrade is a pair of connections that no longer speak HTTP.
type upgrade struct {
	client client
	bc     *backendConn
	visit  *visit
	addr   netip.Addr // of the client
	route  *route
	key    poolKey     // where its bytes go
	doom   *time.Timer // ends it when its route stays away; guarded by upgrades.mu

	giveUp sync.Once
	late   *time.Timer // set by giveUp
}

// switchProtocols passes a 101 on, and from then on bytes in both directions. It
// needs a request that asked for exactly this protocol.
func (ex *exchange) switchProtocols(ctx *fasthttp.RequestCtx) error {
	a := &ex.answer
	if ex.request.upgrade == nil || !bytes.EqualFold(a.upgrade, ex.request.upgrade) || !listHas(a.connection, "upgrade") {
		return errAnswer
	}
	s := ex.srv
	u := &upgrade{client: ex.client, bc: ex.bc, visit: ex.visit, addr: ex.client.Address(), route: ex.route, key: ex.up.pool.key}
	if !s.upgrades.add(u) {
		s.hits.at(limitUpgrades)
		return errTooManyUpgrades
	}
	head := ex.appendSticky(a.appendHead(nil, ex.route, false))
	head = append(append(append(head, "Connection: Upgrade\r\nUpgrade: "...), a.upgrade...), "\r\n\r\n"...)
	ex.endWatch()
	u.bc.ex = nil
	_ = u.bc.Conn.SetReadDeadline(time.Time{})
	ex.release()
	u.visit.goOn()
	u.visit.record.Status = fasthttp.StatusSwitchingProtocols
	// The 101 is written by run: fasthttp would write it and then perhaps not
	// call back, with nobody left to close the backend's connection.
	s.running.Add(1)
	u.client.TakeOver(ctx, func() {
		defer s.running.Done()
		defer u.visit.end()
		defer u.client.Close()
		defer s.upgrades.remove(u)
		defer u.visit.survive("upgrade", u.kill)
		u.run(s, head)
	})
	return nil
}

// run carries bytes until both sides have ended, or one has failed.
func (u *upgrade) run(s *Server, head []byte) {
	defer u.bc.Close()
	if err := u.client.Upgrade(head); err != nil {
		if err == errAccept {
			u.visit.record.Status = fasthttp.StatusBadGateway
		}
		return
	}
	done := make(chan struct{})
	go func() { // awaited below
		defer close(done)
		defer u.visit.survive("upgrade", u.kill)
		if u.pump(s, backendEnd{u.bc}, u.client) != nil {
			u.kill()
		}
	}()
	if u.pump(s, countedEnd{u.client, &u.visit.record.Size}, backendEnd{u.bc}) != nil {
		_ = u.bc.Close()
		u.client.Cut() // behind what the backend has sent
		u.abandon(s, nil)
	}
	<-done
	if u.late != nil {
		u.late.Stop()
	}
}

// halfCloser is one end of an upgrade.
type halfCloser interface {
	io.ReadWriter
	CloseWrite() error
}

// pump copies one direction until src ends, and passes that end on, so that the other
// direction can drain. An error is one of src. Where dst takes no more, the rest is
// thrown away for a while: dst may have said its last word, and a socket that is
// closed with something to be read takes back what was written to it.
//
// Most upgrades idle most of the time, so a large buffer is held only while there is
// something to fill it.
func (u *upgrade) pump(s *Server, dst, src halfCloser) error {
	var large *piece
	defer func() {
		if large != nil {
			s.pieces.Put(large)
		}
	}()
	small := make([]byte, idlePiece)
	deaf := false // dst takes no more
	for buf := small; ; {
		n, err := src.Read(buf)
		if n > 0 && !deaf {
			if _, err := dst.Write(buf[:n]); err != nil {
				deaf = true
				u.abandon(s, err)
			}
		}
		switch {
		case large == nil && n == len(small):
			large = s.pieces.Get().(*piece)
			buf = large[:]
		case large != nil && n < len(small):
			s.pieces.Put(large)
			large, buf = nil, small
		}
		if err == io.EOF {
			if !deaf {
				if err := dst.CloseWrite(); err != nil {
					u.abandon(s, err)
				}
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// abandon bounds what is left of an upgrade of which one side takes no more. One that
// only waited for too long to do so has had its time.
func (u *upgrade) abandon(s *Server, err error) {
	if isTimeout(err) {
		u.kill()
		return
	}
	u.giveUp.Do(func() { u.late = time.AfterFunc(s.limits.discard, u.kill) })
}

// kill ends both connections at once, from any goroutine, so that neither side takes
// that for a clean end.
func (u *upgrade) kill() {
	u.client.Reset() // before run gets to cut it for the loss of the backend
	u.bc.Reset()
}

// countedEnd is the client's side of an upgrade: what it gets is counted.
type countedEnd struct {
	client
	size *int64
}

func (e countedEnd) Write(p []byte) (int, error) {
	n, err := e.client.Write(p)
	*e.size += int64(n)
	return n, err
}

// backendEnd is the backend's side of an upgrade: what its source holds already
// comes first.
type backendEnd struct{ bc *backendConn }

func (e backendEnd) Read(p []byte) (int, error)  { return e.bc.in.Read(p) }
func (e backendEnd) Write(p []byte) (int, error) { return e.bc.Conn.Write(p) }

func (e backendEnd) CloseWrite() error { return closeWrite(e.bc.Conn) }

// closeWrite ends the sending direction of nc, through TLS down to the socket.
func closeWrite(nc net.Conn) error {
	switch c := nc.(type) {
	case *socket:
		return closeWrite(c.Conn)
	case interface{ CloseWrite() error }:
		err := c.CloseWrite()
		if t, ok := nc.(interface{ NetConn() net.Conn }); ok && err == nil {
			return closeWrite(t.NetConn())
		}
		return err
	}
	return errors.ErrUnsupported
}

// abort has nc, which is about to be closed, end with an error rather than a clean
// end, as far as its socket can.
func abort(nc net.Conn) {
	switch c := nc.(type) {
	case *socket:
		abort(c.Conn)
	case interface{ NetConn() net.Conn }: // TLS, which must not say that this is the end
		abort(c.NetConn())
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0)
		_ = nc.Close()
	default:
		_ = nc.Close()
	}
}
