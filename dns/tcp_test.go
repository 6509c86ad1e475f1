package dns

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func (r running) dialTCP(t testing.TB) *dns.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return &dns.Conn{Conn: c}
}

// Slow answers do not hold up the ones after them, and none is lost when the
// client has more under way than fits.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-release
		records(0, exampleA)(w, m)
	})
	r := start(t, exampleConfig(), nil, up.addr)
	c := r.dialTCP(t)
	const n = 3 * maxPipelined
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			m := question(fmt.Sprintf("h%d.example.org", i), dns.TypeA)
			if i == 5 {
				m = question("nas.gc.internal", dns.TypeA)
			}
			m.Id = uint16(i)
			if err := c.WriteMsg(m); err != nil {
				t.Error(err)
			}
		}
	})
	m, err := c.ReadMsg()
	if err != nil || m.Id != 5 {
		t.Fatalf("the local answer did not come first: %v, %v", m, err)
	}
	close(release)
	seen := map[uint16]bool{5: true}
	for len(seen) < n {
		m, err := c.ReadMsg()
		if err != nil || len(m.Answer) != 1 || seen[m.Id] {
			t.Fatalf("%v, %v", m, err)
		}
		seen[m.Id] = true
	}
	wg.Wait()
}

// A client that closes its side after the question still gets the answer.
func TestHalfClosedClient(t *testing.T) {
	release := make(chan struct{})
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-release
		records(0, exampleA)(w, m)
	})
	r := start(t, exampleConfig(), nil, up.addr)
	c := r.dialTCP(t)
	if err := c.WriteMsg(question("www.example.org", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	close(release)
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Fatalf("%v, %v", m, err)
	}
	if _, err := c.ReadMsg(); err == nil {
		t.Fatal("connection stays open")
	}
}

func TestConnectionsPerPeer(t *testing.T) {
	r := start(t, exampleConfig(), nil)
	var first *dns.Conn
	for i := range maxConnsPerPeer {
		c := r.dialTCP(t)
		if err := c.WriteMsg(question("nas", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadMsg(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = c
		}
	}
	if n, err := r.dialTCP(t).Conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("one too many, and %d bytes came", n)
	}
	_ = first.Close()
	waitFor(t, func() bool {
		c := r.dialTCP(t)
		defer c.Close()
		if err := c.WriteMsg(question("nas", dns.TypeA)); err != nil {
			return false
		}
		_, err := c.ReadMsg()
		return err == nil
	})
}

func TestGarbageEndsConnection(t *testing.T) {
	r := start(t, exampleConfig(), nil)
	for name, b := range map[string][]byte{
		"nothing":   {0, 0},
		"short":     {0, 3, 1, 2, 3},
		"an answer": append([]byte{0, 12}, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	} {
		c := r.dialTCP(t)
		if _, err := c.Conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(c.Conn); len(out) != 0 {
			t.Errorf("%s: %x, %v", name, out, err)
		}
	}
	c := r.dialTCP(t)
	_, _ = c.Conn.Write([]byte{0, 12, 0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0}) // two questions
	var in [14]byte
	if _, err := io.ReadFull(c.Conn, in[:]); err != nil || binary.BigEndian.Uint16(in[2:]) != 7 || in[5]&rcodeMask != dns.RcodeFormatError {
		t.Fatalf("%x, %v", in, err)
	}
}
