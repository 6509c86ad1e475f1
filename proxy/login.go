package proxy

import (
	"bytes"
	"time"
)

// NTLM and Negotiate log a connection in, not a request (RFC 4559, section 6). So the
// connection to a backend on which a client has sent such a login is the client's own
// from then on: the further legs of the login and the requests behind it go there, and
// nobody else's do. It ends with the connection of the client. That must be one of
// HTTP/1.1, where requests of one client alone follow each other: to one of streams a
// backend that asks for such a login is not shown, but it is sent back to HTTP/1.1. A
// trusted proxy may bring many clients on one connection, so nothing is kept for it,
// and no such login works through it.

// bindsLogin reports whether an Authorization, or a challenge, is of a scheme that
// logs a connection in rather than a request. Whoever had that connection next would
// be logged in, too.
func bindsLogin(credentials []byte) bool {
	scheme, _, _ := bytes.Cut(credentials, space)
	return equalFold(scheme, "ntlm") || equalFold(scheme, "negotiate")
}

// asksForConnection reports whether an answer of 401 asks for such a login.
func asksForConnection(fields []field) bool {
	for i := range fields {
		if !equalFold(fields[i].name, "www-authenticate") {
			continue
		}
		for list := fields[i].value; len(list) > 0; {
			var challenge []byte
			if challenge, list = cutList(list); bindsLogin(challenge) {
				return true
			}
		}
	}
	return false
}

// keep puts a connection whose exchange ended clean where the next request finds it.
func (ex *exchange) keep(bc *backendConn) {
	p := ex.up.pool
	if !bc.login && !ex.request.bound {
		p.put(bc)
		return
	}
	if bc.login || ex.ownsClient {
		bc.login, bc.pool = true, p
		bc.settle()
		if p.open() && ex.client.Keep(bc) {
			return
		}
	}
	_ = bc.Close()
}

// settle prepares a connection for a time without an exchange.
func (bc *backendConn) settle() {
	bc.ex = nil
	bc.used = time.Now()
	bc.in.shrink()
}

func (p *pool) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed
}

// loggedIn is the backend at which the client is logged in, below 0 if it is at none
// that is still to be tried.
func (ex *exchange) loggedIn(b *balance) int {
	if p := ex.client.Kept(); p != nil {
		for i := range b.members {
			if b.members[i].pool == p && ex.tried>>i&1 == 0 {
				return i
			}
		}
	}
	return -1
}

func (c *conn) Keep(bc *backendConn) bool {
	if old := c.login.Swap(bc); old != nil {
		_ = old.Close() // one login is enough
	}
	if c.phase.Load() == closed { // Close may have come too early for it
		c.dropLogin()
	}
	return true
}

func (c *conn) Kept() *pool {
	bc := c.login.Load()
	if bc == nil {
		return nil
	}
	if !bc.pool.open() {
		c.dropLogin()
		return nil
	}
	return bc.pool
}

func (c *conn) TakeKept() *backendConn {
	bc := c.login.Swap(nil)
	if bc == nil {
		return nil
	}
	if quiet, known := bc.quiet(); known && !quiet {
		_ = bc.Close()
		return nil
	}
	bc.reused = true
	return bc
}

func (c *conn) dropLogin() {
	if bc := c.login.Swap(nil); bc != nil {
		_ = bc.Close()
	}
}

func (b *bridge) Keep(*backendConn) bool { return false }
func (b *bridge) Kept() *pool            { return nil }
func (b *bridge) TakeKept() *backendConn { return nil }
