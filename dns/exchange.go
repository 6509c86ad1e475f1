package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// pack returns m in wire form under an id.
func pack(m *dns.Msg, id uint16) ([]byte, error) {
	m.Id = id
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack query: %w", err)
	}
	return b, nil
}

// readAnswer takes b apart if it is the answer to m, else it returns nil: id,
// question and direction must agree (RFC 5452 section 9).
func readAnswer(b []byte, m *dns.Msg) *dns.Msg {
	r := new(dns.Msg)
	if err := r.Unpack(b); err != nil {
		return nil
	}
	if r.Id != m.Id || !r.Response || r.Opcode != dns.OpcodeQuery || len(r.Question) != 1 {
		return nil
	}
	q, a := m.Question[0], r.Question[0]
	if q.Qtype != a.Qtype || q.Qclass != a.Qclass || !strings.EqualFold(q.Name, a.Name) {
		return nil
	}
	return r
}

// exchangeStream asks over a connection with length prefixes (RFC 7766).
func exchangeStream(ctx context.Context, c net.Conn, m *dns.Msg) (*dns.Msg, error) {
	b, err := pack(m, dns.Id())
	if err != nil {
		return nil, err
	}
	stop := deadlineFrom(ctx, c)
	defer stop()
	framed := append(make([]byte, 0, 2+len(b)), byte(len(b)>>8), byte(len(b)))
	if _, err := c.Write(append(framed, b...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	in := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(c, in); err != nil {
		return nil, err
	}
	r := readAnswer(in, m)
	if r == nil {
		return nil, errors.New("the answer belongs to another question")
	}
	return r, nil
}

// deadlineFrom ends what c is doing when ctx ends. The caller calls stop.
func deadlineFrom(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// plainUpstream asks by UDP, and by TCP what does not fit.
type plainUpstream struct {
	addr string
	dial dialFunc
}

func (p *plainUpstream) close() {}

// exchange uses a socket, and so a source port, of its own per question. What
// comes from elsewhere the socket drops; what does not match is not looked at
// further, and the wait goes on.
func (p *plainUpstream) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	c, err := p.dial(ctx, "udp", p.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b, err := pack(m, dns.Id())
	if err != nil {
		return nil, err
	}
	stop := deadlineFrom(ctx, c)
	defer stop()
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // more than we say we take
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		r := readAnswer(buf[:n], m)
		switch {
		case r == nil:
		case r.Truncated:
			return p.exchangeTCP(ctx, m)
		default:
			return r, nil
		}
	}
}

func (p *plainUpstream) exchangeTCP(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	c, err := p.dial(ctx, "tcp", p.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return exchangeStream(ctx, c, m)
}
