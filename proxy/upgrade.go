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
}

// upgrades is the register of those that are open.
type upgrades struct {
	mu     sync.Mutex
	open   map[*upgrade]struct{}
	closed bool
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
		return
	}
	done := make(chan struct{})
	go func() { // awaited below
		defer close(done)
		defer u.visit.survive("upgrade", u.kill)
		u.pump(s, backendEnd{u.bc}, u.client)
	}()
	u.pump(s, countedEnd{u.client, &u.visit.record.Size}, backendEnd{u.bc})
	<-done
}

// halfCloser is one end of an upgrade.
type halfCloser interface {
	io.ReadWriter
	CloseWrite() error
}

// pump copies one direction. The end of one side is passed on, so that the other
// direction can drain; a failure ends both. Most upgrades idle most of the time,
// so a large buffer is held only while there is something to fill it.
func (u *upgrade) pump(s *Server, dst, src halfCloser) {
	var large *piece
	defer func() {
		if large != nil {
			s.pieces.Put(large)
		}
	}()
	small := make([]byte, idlePiece)
	for buf := small; ; {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				u.kill()
				return
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
			err = dst.CloseWrite()
			if err == nil {
				return
			}
		}
		if err != nil {
			u.kill()
			return
		}
	}
}

// kill ends both connections at once, from any goroutine.
func (u *upgrade) kill() {
	_ = u.bc.Close()
	u.client.Kill()
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

func (r *upgrades) add(u *upgrade) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.open) >= maxUpgrades {
		return false
	}
	r.open[u] = struct{}{}
	return true
}

func (r *upgrades) remove(u *upgrade) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, u)
	if u.doom != nil {
		u.doom.Stop()
	}
}

// judge gives upgrades whose route is gone, leads elsewhere, or lets their client
// in no more, their time of grace. A route that is back by then has saved them.
func (r *upgrades) judge(s *Server) {
	snap := s.snapshot.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	for u := range r.open {
		if u.doom == nil && !snap.has(u) {
			u.doom = time.AfterFunc(s.limits.grace, func() { r.execute(s, u) })
		}
	}
}

func (r *upgrades) execute(s *Server, u *upgrade) {
	r.mu.Lock()
	_, open := r.open[u]
	u.doom = nil
	r.mu.Unlock()
	if open && !s.snapshot.Load().has(u) {
		u.kill()
	}
}

// has reports whether requests can still go where u went.
func (s *snapshot) has(u *upgrade) bool {
	now := s.hosts[u.route.host]
	return now != nil && now.id == u.route.id && now.leadsTo(u.key) && now.admits(u.addr)
}

// closeAll ends all upgrades, and those to come.
func (r *upgrades) closeAll() {
	r.mu.Lock()
	r.closed = true
	all := make([]*upgrade, 0, len(r.open))
	for u := range r.open {
		all = append(all, u)
	}
	r.mu.Unlock()
	for _, u := range all {
		u.kill()
	}
}
