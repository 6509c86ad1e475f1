package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2raw is an HTTP/2 client that can break every rule.
type h2raw struct {
	*http2.Framer
	t     testing.TB
	conn  net.Conn
	enc   *hpack.Encoder
	block bytes.Buffer
	dec   *hpack.Decoder
	// What the server set.
	settings map[http2.SettingID]uint32
}

// h2 opens a connection to app.test and greets.
func (r *rig) h2() *h2raw {
	r.t.Helper()
	c := r.h2silent(r.t, "app.test")
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		r.t.Fatal(err)
	}
	c.try(c.WriteSettings())
	return c
}

// h2silent opens a connection and sends nothing.
func (r *rig) h2silent(t testing.TB, name string) *h2raw {
	t.Helper()
	cfg := r.trust()
	cfg.ServerName, cfg.NextProtos = name, []string{"h2", "http/1.1"}
	conn, err := tls.DialWithDialer(r.dialer(), "tcp", r.tls, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("protocol %q", p)
	}
	c := &h2raw{Framer: http2.NewFramer(conn, conn), t: t, conn: conn, settings: map[http2.SettingID]uint32{}}
	c.AllowIllegalWrites, c.AllowIllegalReads = true, true
	c.SetReuseFrames()
	c.enc, c.dec = hpack.NewEncoder(&c.block), hpack.NewDecoder(4096, nil)
	return c
}

// try logs the error of a write: the answer may have come before.
func (c *h2raw) try(err error) bool {
	if err != nil {
		c.t.Logf("write: %v", err)
	}
	return err == nil
}

// fields encodes a section of "name value" lines.
func (c *h2raw) fields(section string) []byte {
	c.block.Reset()
	for line := range strings.Lines(section) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		_ = c.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	return bytes.Clone(c.block.Bytes())
}

// request sends a head in one frame.
func (c *h2raw) request(id uint32, section string, end bool) bool {
	return c.try(c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(section), EndStream: end, EndHeaders: true}))
}

// event is what the server did next: a frame, or the end of the connection.
type event struct {
	http2.FrameHeader
	status string // of an answer
	fields map[string]string
	code   http2.ErrCode
	last   uint32
	data   string
	err    error
}

func (c *h2raw) next() event {
	f, err := c.ReadFrame()
	if err != nil {
		return event{err: err}
	}
	e := event{FrameHeader: f.Header()}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		e.fields = map[string]string{}
		fields, err := c.dec.DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			c.t.Errorf("section of stream %d: %v", f.StreamID, err)
		}
		for _, f := range fields {
			e.fields[f.Name] = f.Value
		}
		e.status = e.fields[":status"]
	case *http2.DataFrame:
		e.data = string(f.Data())
	case *http2.RSTStreamFrame:
		e.code = f.ErrCode
	case *http2.GoAwayFrame:
		e.code, e.last = f.ErrCode, f.LastStreamID
	case *http2.SettingsFrame:
		_ = f.ForeachSetting(func(s http2.Setting) error { c.settings[s.ID] = s.Val; return nil })
	}
	return e
}

// outcome waits for what becomes of a stream, or of the connection: a status,
// "reset CODE", "goaway CODE" or "closed".
func (c *h2raw) outcome(id uint32) string {
	for {
		switch e := c.next(); {
		case e.err != nil:
			if t, ok := e.err.(net.Error); ok && t.Timeout() {
				return "nothing"
			}
			return "closed"
		case e.Type == http2.FrameGoAway:
			return fmt.Sprintf("goaway %v", e.code)
		case e.StreamID != id:
		case e.Type == http2.FrameRSTStream:
			return fmt.Sprintf("reset %v", e.code)
		case e.Type == http2.FrameHeaders && e.status != "":
			return e.status
		}
	}
}

// body reads the rest of an answer: its data, and how it ended.
func (c *h2raw) body(id uint32) (data, end string) {
	var b strings.Builder
	for {
		e := c.next()
		if e.err != nil {
			return b.String(), "closed"
		}
		if e.StreamID != id {
			continue
		}
		b.WriteString(e.data)
		switch {
		case e.Type == http2.FrameRSTStream:
			return b.String(), fmt.Sprintf("reset %v", e.code)
		case e.Type == http2.FrameData && e.Flags.Has(http2.FlagDataEndStream):
			return b.String(), "end"
		case e.Type == http2.FrameHeaders && e.Flags.Has(http2.FlagHeadersEndStream):
			return b.String(), "trailers"
		}
	}
}

// ended reads until the server closes the connection.
func (c *h2raw) ended() bool {
	for {
		if e := c.next(); e.err != nil {
			t, ok := e.err.(net.Error)
			return !ok || !t.Timeout()
		}
	}
}
