package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Bounds of one QUIC connection. What a client may have in flight towards us is
// buffered here until the backend takes it, so the windows are the memory that
// one connection can hold.
const (
	maxStreams     = 100       // requests at once, as on HTTP/2
	maxUniStreams  = 8         // control and two of QPACK; clients open a few that mean nothing
	streamWindow   = 256 << 10 // of one stream
	connWindow     = 256 << 10 // of all streams of a connection, at first
	connCeiling    = 1 << 20   // likewise, at last
	maxUnvalidated = 100       // handshakes with addresses that may be forged; beyond it they are asked to prove it
	connIDLength   = 8         // too long to meet another's by guessing
)

// quicDoor is one UDP socket that answers HTTP/3.
type quicDoor struct {
	srv  *Server
	pc   net.PacketConn
	host bool // of the host, not of the tunnel
	tr   *quic.Transport
	ln   *quic.Listener
	open sync.WaitGroup // connections; added to by the accept loop alone

	unvalidated atomic.Int64
}

// ServePacket answers HTTP/3 on a UDP socket, which it closes, until the socket
// is closed or the server shut down and its connections have ended; it returns
// nil then. It may be called for several sockets. Connections of TLS listeners
// with the same address advertise it (RFC 9114, section 3.1.1). One of the host is to
// be OutsidePacket.
func (s *Server) ServePacket(pc net.PacketConn) error {
	d := &quicDoor{srv: s, pc: pc}
	if o, ok := pc.(outsideSocket); ok {
		d.pc, d.host = o.PacketConn, true
		pc = d.pc
	}
	d.tr = &quic.Transport{
		Conn:                packetSocket(pc),
		ConnectionIDLength:  connIDLength,
		StatelessResetKey:   (*quic.StatelessResetKey)(&s.opts.ResetKey),
		VerifySourceAddress: func(net.Addr) bool { return d.unvalidated.Load() >= maxUnvalidated },
		ConnContext:         d.enter,
	}
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return pc.Close()
	}
	var err error
	if d.ln, err = d.tr.Listen(s.quic, s.quicConfig()); err != nil {
		s.mu.Unlock()
		_ = pc.Close()
		return err
	}
	s.doors[d] = struct{}{}
	s.listDoors()
	s.running.Add(1)
	s.mu.Unlock()
	defer func() {
		d.open.Wait()
		// The socket first: the transport waits for its reader, which a socket
		// without deadlines ends in no other way.
		_ = pc.Close()
		_ = d.tr.Close()
		s.mu.Lock()
		delete(s.doors, d)
		s.listDoors()
		s.mu.Unlock()
		s.running.Done()
	}()
	for {
		qc, err := d.ln.Accept(context.Background()) // ends with the listener
		switch {
		case err == nil:
			d.start(qc)
		case errors.Is(err, net.ErrClosed) || s.draining.Load():
			return nil
		default:
			return err
		}
	}
}

func (s *Server) quicConfig() *quic.Config {
	return &quic.Config{
		// The handshake is given up after twice the time without a packet.
		HandshakeIdleTimeout:           s.limits.handshake / 2,
		MaxIdleTimeout:                 s.limits.quicIdle,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connCeiling,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          maxUniStreams,
		// A WebSocket that is cut may have had a last word.
		EnableStreamResetPartialDelivery: true,
		// No 0-RTT: what is replayed there, a proxy cannot tell from a request.
		// No keepalive: clients that wait for an answer send their own (RFC 9114,
		// section 5.1).
	}
}

// visitor is a QUIC connection from its first packet on.
type visitor struct {
	door       *quicDoor
	tally      *tally
	addr       netip.Addr
	born       time.Time
	unverified atomic.Bool
}

type visitorKey struct{}

var errFullHouse = errors.New("no room for another connection")

// enter admits a connection whose handshake begins, as start does on TCP.
func (d *quicDoor) enter(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	s := d.srv
	v := &visitor{door: d, addr: addrPort(info.RemoteAddr).Addr(), born: time.Now()}
	if d.host && s.inside(v.addr) {
		return nil, errMadeUp
	}
	if v.tally = s.census.enter(v.addr, &s.limits); v.tally == nil {
		s.hits.at(limitConnections)
		return nil, errFullHouse
	}
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		s.census.leave(v.addr)
		return nil, errFullHouse
	}
	s.running.Add(1)
	s.mu.Unlock()
	if !info.AddrVerified {
		v.unverified.Store(true)
		d.unvalidated.Add(1)
	}
	context.AfterFunc(ctx, v.leave) // the connection was closed, or never came about
	return context.WithValue(ctx, visitorKey{}, v), nil
}

// verified ends the time in which the address of a visitor may be forged.
func (v *visitor) verified() {
	if v.unverified.Swap(false) {
		v.door.unvalidated.Add(-1)
	}
}

func (v *visitor) leave() {
	v.verified()
	v.door.srv.census.leave(v.addr)
	v.door.srv.running.Done()
}

// start serves a connection whose handshake is done, in a goroutine that
// ServePacket waits for.
func (d *quicDoor) start(qc *quic.Conn) {
	v, ok := qc.Context().Value(visitorKey{}).(*visitor)
	if !ok || qc.ConnectionState().TLS.NegotiatedProtocol != "h3" {
		// An authority that looked at our certificate, and wants no more.
		_ = qc.CloseWithError(h3NoError, "")
		return
	}
	v.verified()
	s := d.srv
	c := newH3Conn(s, qc, v)
	s.mu.Lock()
	s.h3conns[c] = struct{}{}
	draining := s.draining.Load()
	s.mu.Unlock()
	if draining {
		c.drain()
	}
	d.open.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.h3conns, c)
			s.mu.Unlock()
		}()
		defer s.survive("connection", c.Kill)
		c.run()
	})
}

// packetSocket adds to a socket that is not the kernel's what quic-go asks for,
// and would otherwise complain about on the log.
func packetSocket(pc net.PacketConn) net.PacketConn {
	if _, ok := pc.(interface{ SetReadBuffer(int) error }); ok {
		return pc
	}
	return unbuffered{pc}
}

type unbuffered struct{ net.PacketConn }

func (unbuffered) SetReadBuffer(int) error  { return nil }
func (unbuffered) SetWriteBuffer(int) error { return nil }
