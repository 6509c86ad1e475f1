package proxy

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// socketHead asks for a WebSocket on a stream.
var socketHead = []pair{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", "app.test"}, {":path", "/"}, {"sec-websocket-version", "13"}}

func lines(fields []pair) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(f.name + " " + f.value + "\n")
	}
	return b.String()
}

// TestWebSocketOnAStream sends what may not come on the stream of a WebSocket: a
// length, which a backend would wait for, and fields behind the head.
func TestWebSocketOnAStream(t *testing.T) {
	r := newRig(t, site(echoSocket(t)))
	length := append(socketHead[:len(socketHead):len(socketHead)], pair{"content-length", "5"})
	t.Run("HTTP2", func(t *testing.T) {
		c := r.h2()
		c.request(1, lines(length), false)
		if got := c.outcome(1); got != "reset PROTOCOL_ERROR" {
			t.Errorf("a length: %s", got)
		}
		for id, end := range map[uint32]bool{3: false, 5: true} {
			c = r.h2()
			c.request(id, lines(socketHead), false)
			if got := c.outcome(id); got != "200" {
				t.Fatal(got)
			}
			c.request(id, "x-sum 1\n", end)
			if got := c.outcome(id); got != "reset PROTOCOL_ERROR" {
				t.Errorf("fields, and the end: %v: %s", end, got)
			}
			c.request(id+2, plainGET, true)
			if got := c.outcome(id + 2); got != "426" {
				t.Errorf("another stream: %s", got)
			}
		}
	})
	t.Run("HTTP3", func(t *testing.T) {
		c := r.dialQUIC(t, "app.test")
		open := func(head []pair) *quic.Stream {
			str, err := c.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			_ = str.SetDeadline(time.Now().Add(speakingTime))
			_, _ = str.Write(fieldSection(head))
			return str
		}
		var reset *quic.StreamError
		if _, err := io.ReadAll(open(length)); !errors.As(err, &reset) || reset.ErrorCode != h3MessageError {
			t.Errorf("a length: %v", err)
		}
		str := open(socketHead)
		if _, err := str.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_, _ = str.Write(fieldSection([]pair{{"x-sum", "1"}}))
		select {
		case <-c.Context().Done():
		case <-time.After(speakingTime):
			t.Fatal("the connection goes on")
		}
		var app *quic.ApplicationError
		if err := context.Cause(c.Context()); !errors.As(err, &app) || app.ErrorCode != h3FrameUnexpected {
			t.Errorf("fields: %v", err)
		}
	})
}
