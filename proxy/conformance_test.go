package proxy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/lxzan/gws"
)

// played is what came back in a case.
type played struct {
	echo []string // messages and pongs as socketCase.echo names them
	code int      // of the closing frame, 0 without one
	end  string   // as howEnded names it
}

// run plays the case over a socket of its own.
func (sc *socketCase) run(open opener) (got played, err error) {
	header := http.Header{}
	if sc.deflate {
		header.Set("Sec-WebSocket-Extensions", "permessage-deflate; client_no_context_takeover; server_no_context_takeover")
	}
	c, err := open("/chat", header)
	if err != nil {
		return got, err
	}
	if c.duplex == nil || sc.deflate != (c.header.Get("Sec-WebSocket-Extensions") != "") {
		return got, fmt.Errorf("%d with %q", c.status, c.header.Get("Sec-WebSocket-Extensions"))
	}
	var sending sync.WaitGroup
	sending.Go(func() { // ends with the socket
		var b []byte
		for _, f := range sc.send {
			b = f.append(b)
		}
		b = closing(1000, "").append(b)
		for len(b) > 0 {
			n := len(b)
			if sc.chop > 0 {
				n = min(n, sc.chop)
			}
			if _, err := c.Write(b[:n]); err != nil {
				return // the other side has closed, as it may after its close
			}
			b = b[n:]
		}
	})
	defer func() { c.Close(); sending.Wait() }()
	br := bufio.NewReader(c)
	var kind string
	var message []byte
	packed := false
	for {
		f, err := readFrame(br)
		if err != nil {
			got.end = howEnded(err)
			if got.end == "never" {
				return got, err
			}
			return got, nil
		}
		switch f.op {
		case opText, opBinary:
			kind, message, packed = map[byte]string{opText: "text:", opBinary: "binary:"}[f.op], f.payload, f.rsv == 4
		case opContinuation:
			message = append(message, f.payload...)
		case opPong:
			got.echo = append(got.echo, "pong:"+string(f.payload))
			continue
		case opClose:
			if len(f.payload) >= 2 {
				got.code = int(binary.BigEndian.Uint16(f.payload))
			}
			continue
		}
		if f.fin {
			if packed {
				if message, err = inflate(message); err != nil {
					return got, err
				}
			}
			got.echo = append(got.echo, kind+string(message))
		}
	}
}

// echoConformant is a backend that keeps to the letter of the protocol.
type echoConformant struct{ gws.BuiltinEventHandler }

func (echoConformant) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

func (echoConformant) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = c.WriteMessage(m.Opcode, m.Bytes())
}

func conformantBackend(t testing.TB) netip.AddrPort {
	up := gws.NewUpgrader(echoConformant{}, &gws.ServerOption{
		CheckUtf8Enabled: true, ReadMaxPayloadSize: 32 << 20, WriteMaxPayloadSize: 32 << 20,
		PermessageDeflate: gws.PermessageDeflate{Enabled: true, Threshold: 1},
	})
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		if c, err := up.Upgrade(w, r); err == nil {
			c.ReadLoop() // on the goroutine of the request, which ends with it
		}
	})
}

// TestWebSocketConformance plays every case against the backend itself and by every
// way through the proxy: the frames that come back must be the same.
func TestWebSocketConformance(t *testing.T) {
	addr := conformantBackend(t)
	r := newRig(t, site(addr))
	cases := conformanceCases()
	ways := append([]socketWay{{"backend", func(testing.TB, *rig) opener { return openBackend(addr) }}}, socketWays...)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			open := way.dial(t, r)
			playing := make(chan struct{}, 8) // at once: on HTTP/2 and 3 they share windows
			var played sync.WaitGroup
			for _, c := range cases {
				playing <- struct{}{}
				played.Go(func() {
					defer func() { <-playing }()
					got, err := c.run(open)
					if err != nil || got.code != c.code && (c.code != anyCode || got.code == 0) || !slices.Equal(got.echo, c.echo) {
						t.Errorf("%s: closed with %d, want %d; %d answers, want %d; %s, %v", c.name, got.code, c.code, len(got.echo), len(c.echo), got.end, err)
					}
					if c.endsClean() && got.end != "clean" {
						t.Errorf("%s: the end is %s", c.name, got.end)
					}
				})
			}
			played.Wait()
			t.Logf("%d cases", len(cases))
		})
	}
}

// endsClean reports whether the backend has read everything when it closes: with
// more to be read, its connection ends with a reset.
func (sc *socketCase) endsClean() bool {
	return sc.code == 1000 && !slices.ContainsFunc(sc.send, func(f frame) bool { return f.op == opClose })
}
