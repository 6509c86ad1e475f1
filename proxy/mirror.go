package proxy

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

const (
	maxMirrored = 10 << 20 // longest body that is copied
	// maxCopies bounds the copies that are on their way, in all. A target that hangs
	// holds each one for the whole limit.
	maxCopies = 100
	// copyBudget bounds the bodies that wait to be copied and are on their way, in
	// all. Six of the longest fit, or two thousand forms; the rest is dropped.
	copyBudget = 64 << 20
)

// MirrorCounts are what became of the copies of requests since the start.
type MirrorCounts struct {
	Sent    int64 // answered by their target, with any status
	Failed  int64 // not answered, or not in time
	Dropped int64 // not sent: too many, no memory, or the body did not come to its end
}

// mirrors counts copies.
type mirrors struct {
	open                  atomic.Int32
	sent, failed, dropped atomic.Int64
	drops                 failureLog
}

// MirrorCounts returns the counts of now.
func (s *Server) MirrorCounts() MirrorCounts {
	m := &s.mirrors
	return MirrorCounts{Sent: m.sent.Load(), Failed: m.failed.Load(), Dropped: m.dropped.Load()}
}

// mirrorsOf compiles the mirrors of r. A backend that got its own copies would do
// everything twice.
func (s *Server) mirrorsOf(snap, prev *snapshot, r *route) ([]upstream, error) {
	if len(r.options.Mirrors) > model.MaxMirrors {
		return nil, model.Invalid("mirror_targets", "more than %d", model.MaxMirrors)
	}
	var list []upstream
	for i, t := range r.options.Mirrors {
		field := fmt.Sprintf("mirror_targets[%d]", i)
		if err := checkTarget(field, r.host, t); err != nil {
			return nil, err
		}
		up := s.upstream(snap, prev, r, t)
		if r.uses(up.pool.key.addr) {
			return nil, model.Invalid(field, "the mirror is a target of the route itself")
		}
		list = append(list, up)
	}
	return list, nil
}

// requestCopy is a request on its way to the mirrors of its route. Until it is
// launched it belongs to whoever reads the body, after that to its senders.
type requestCopy struct {
	srv      *Server
	host     string
	targets  []upstream
	head     []byte // but for the length of the body and the empty line
	isHead   bool   // the method is HEAD
	hasBody  bool
	bound    bool // as that of request
	tally    *tally
	body     spool
	launched bool
	pending  atomic.Int32 // senders that still need the body
}

// copyRequest begins the copy of a request. Without a body it is launched at once.
func (ex *exchange) copyRequest(ctx *fasthttp.RequestCtx, snap *snapshot) {
	r, q := ex.route, &ex.request
	c := &requestCopy{srv: ex.srv, host: r.host, targets: r.mirrors, isHead: ctx.Request.Header.IsHead(), hasBody: ex.body != nil, bound: q.bound, tally: ex.client.Tally()}
	c.head = q.appendCopyHead(make([]byte, 0, len(ex.out)+64), ctx, ex.client, r, snap, c.hasBody)
	switch {
	case !c.hasBody, q.length > maxMirrored:
		c.launch()
	default:
		ex.copy = c
	}
}

// add appends a piece of the body. If it becomes too long, the copy goes without.
func (c *requestCopy) add(p []byte) {
	if c == nil || c.launched {
		return
	}
	if c.body.size+len(p) > maxMirrored {
		c.release()
		c.launch()
		return
	}
	for len(p) > 0 {
		room := c.body.room(&c.srv.pieces, c.keeps())
		if room == nil {
			c.srv.hits.at(limitCopied)
			c.abandon()
			return
		}
		n := copy(room, p)
		c.body.added(n)
		p = p[n:]
	}
}

// keeps is what the client has of the budget for bodies.
func (c *requestCopy) keeps() share { return share{&c.srv.copiedBodies, &c.tally.copiedBodies} }

// release gives the body back.
func (c *requestCopy) release() {
	if len(c.body.pieces) > 0 {
		c.body.release(&c.srv.pieces, c.keeps())
		c.srv.census.forget(c.tally)
	}
}

// end says that the body is complete.
func (c *requestCopy) end() {
	if c != nil && !c.launched {
		c.launch()
	}
}

// abandon drops the copy if it is still waiting for its body.
func (c *requestCopy) abandon() {
	if c == nil || c.launched {
		return
	}
	c.launched = true
	c.release()
	c.srv.dropCopies(c.host, len(c.targets))
}

func (s *Server) dropCopies(host string, n int) {
	s.mirrors.dropped.Add(int64(n))
	if skipped, log := s.mirrors.drops.next(time.Now()); log {
		s.opts.Log.Warn("copies of requests dropped", "host", host, "skipped", skipped)
	}
}

// launch sends the copy to every target that there is room for. The request that
// is copied is being served, so running is not zero.
func (c *requestCopy) launch() {
	c.launched = true
	if c.hasBody {
		c.head = append(c.head, "Content-Length: "...)
		c.head = append(strconv.AppendInt(c.head, int64(c.body.size), 10), "\r\n"...)
	}
	c.head = append(c.head, "\r\n"...)
	s := c.srv
	c.pending.Store(int32(len(c.targets)))
	for i := range c.targets {
		if s.mirrors.open.Add(1) > maxCopies {
			s.mirrors.open.Add(-1)
			s.dropCopies(c.host, 1)
			c.done()
			continue
		}
		s.running.Add(1)
		go func() { // ended by its limit, or by the end of all backend connections
			defer s.running.Done()
			defer s.mirrors.open.Add(-1)
			defer c.done()
			defer s.survive("copy", func() { s.mirrors.failed.Add(1) })
			c.deliver(&c.targets[i])
		}()
	}
}

// done counts a sender out. The last one gives the body back.
func (c *requestCopy) done() {
	if c.pending.Add(-1) == 0 {
		c.release()
	}
}

func (c *requestCopy) deliver(up *upstream) {
	s := c.srv
	err := c.send(up)
	if err == nil {
		s.mirrors.sent.Add(1)
		return
	}
	s.mirrors.failed.Add(1)
	if skipped, log := up.pool.failed.next(time.Now()); log {
		s.opts.Log.Warn("mirror failed", "host", c.host, "addr", up.target.Addr, "peer", up.target.PeerName, "err", err, "skipped", skipped)
	}
}

var errCopyTime = errors.New("the copy took too long")

// send writes the copy and throws its answer away. The limit ends it by closing
// the connection.
func (c *requestCopy) send(up *upstream) (err error) {
	began := time.Now()
	bc, err := up.pool.get(false, true)
	if err != nil {
		return err
	}
	late := time.AfterFunc(c.srv.limits.copying-time.Since(began), func() { _ = bc.Close() })
	clean := false
	defer func() {
		if !late.Stop() {
			err = errCopyTime
		}
		if clean && err == nil {
			up.pool.put(bc)
		} else {
			_ = bc.Close()
		}
	}()
	bc.readBy = time.Time{}
	_ = bc.Conn.SetReadDeadline(time.Time{})
	if _, err := bc.Write(c.head); err != nil {
		return err
	}
	for i, p := range c.body.pieces {
		if _, err := bc.Write(p[chunkRoom : chunkRoom+c.body.filled(i)]); err != nil {
			return err
		}
	}
	var a answer
	for range maxInterim {
		n, err := readAnswerHead(&bc.in)
		if err != nil {
			return err
		}
		if err := a.parse(bc.in.buffered()[:n], c.isHead); err != nil {
			return err
		}
		bc.in.discard(n)
		if a.status >= 200 || a.status == fasthttp.StatusSwitchingProtocols {
			break
		}
	}
	bc.body.reset(&bc.in, a.framing, a.length)
	_, rerr := io.CopyN(io.Discard, &bc.body, maxDiscard) // what is longer costs a connection
	clean = !c.bound && rerr == io.EOF && bc.body.complete() && a.keepAlive && a.status >= 200 && len(bc.in.buffered()) == 0
	return nil
}
