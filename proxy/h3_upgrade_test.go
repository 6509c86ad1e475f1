package proxy

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// acceptOf answers the key of a WebSocket (RFC 6455, section 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// TestWebSocketHTTP3 carries bytes both ways over an extended CONNECT, and ends in
// each direction on its own.
func TestWebSocketHTTP3(t *testing.T) {
	r := newRig(t, site(rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nX-Path: %s\r\n\r\n",
			acceptOf(req.Header.Get("Sec-WebSocket-Key")), req.RequestURI)
		n, _ := io.Copy(c, br)
		fmt.Fprintf(c, " %d in all", n)
	})))
	open := func(t *testing.T) (*quic.Conn, *quic.Stream, *source) {
		c := r.dialQUIC(t, "app.test")
		str, err := c.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		_ = str.SetDeadline(time.Now().Add(speakingTime))
		_, _ = str.Write(fieldSection([]pair{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", "app.test"}, {":path", "/chat?x=%2f"},
			{"sec-websocket-version", "13"}, {"origin", "https://app.test"}}))
		return c, str, &source{r: str}
	}
	t.Run("both ways", func(t *testing.T) {
		_, str, in := open(t)
		kind, length, err := nextFrame(in)
		if err != nil || kind != headersFrame {
			t.Fatal(kind, err)
		}
		if err := discardFrame(in, length); err != nil {
			t.Fatal(err)
		}
		var sent strings.Builder
		for i := range 100 {
			text := fmt.Sprint("message ", i, ";")
			sent.WriteString(text)
			_, _ = str.Write([]byte(wireFrame(dataFrame, text)))
		}
		_ = str.Close()
		rest := readHTTP3(in)
		if want := sent.String() + fmt.Sprintf(" %d in all", sent.Len()); rest.body != want {
			t.Errorf("got %q, want %q", rest.body, want)
		}
	})
	t.Run("the server stops", func(t *testing.T) {
		c, _, in := open(t)
		if _, _, err := nextFrame(in); err != nil {
			t.Fatal(err)
		}
		if err := r.srv.Close(); err != nil {
			t.Error(err)
		}
		<-c.Context().Done()
	})
}
