package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// pair is one field.
type pair struct{ name, value string }

// ask is a request of any HTTP version, down to what only a hostile client sends.
type ask struct {
	method, target, host string // the host goes into Host or :authority
	fields               []pair // names in lower case, in order
	body                 string
	noLength             bool   // a body that ends by its framing
	trailers             []pair // with noLength alone
	wait                 bool   // the end of the request is never sent
}

// reply is what came back.
type reply struct {
	status   int
	fields   http.Header
	body     string
	trailers http.Header
	broken   bool // ended without the end of the answer: a cut, or a reset
}

// speakers send raw requests over TLS, one connection each, to the host that the
// request names or, where that is none that TLS knows, to app.test.
var speakers = []struct {
	name  string
	speak func(testing.TB, *rig, ask) reply
}{
	{"HTTP1", speakHTTP1},
	{"HTTP2", speakHTTP2},
	{"HTTP3", speakHTTP3},
}

// speakingTime ends a test that waits for what does not come.
const speakingTime = 20 * time.Second

func (a ask) hasBody() bool { return a.body != "" || a.noLength }

// fieldLines are the fields with the length, where there is one to be told.
func (a ask) fieldLines() []pair {
	lines := slices.Clone(a.fields)
	if a.body != "" && !a.noLength {
		lines = append(lines, pair{"content-length", fmt.Sprint(len(a.body))})
	}
	return lines
}

func speakHTTP1(t testing.TB, r *rig, a ask) reply {
	t.Helper()
	c := r.dialTLS("app.test")
	defer c.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", a.method, a.target, a.host)
	for _, f := range a.fieldLines() {
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
	}
	if a.noLength {
		b.WriteString("transfer-encoding: chunked\r\n")
	}
	b.WriteString("\r\n")
	if a.noLength {
		for chunk := range slices.Chunk([]byte(a.body), 1000) {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
		}
		if !a.wait {
			b.WriteString("0\r\n")
			for _, f := range a.trailers {
				fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
			}
			b.WriteString("\r\n")
		}
	} else {
		b.WriteString(a.body)
	}
	go io.WriteString(c, b.String()) // ends with the connection
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, &http.Request{Method: a.method})
	for err == nil && resp.StatusCode < 200 {
		resp, err = http.ReadResponse(br, &http.Request{Method: a.method})
	}
	if err != nil {
		return reply{broken: true}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if len(resp.TransferEncoding) == 0 && resp.ContentLength >= 0 && resp.Header.Get("Content-Length") == "" && len(body) > 0 {
		t.Errorf("a body of no known length")
	}
	return reply{resp.StatusCode, resp.Header, string(body), resp.Trailer, err != nil}
}

// speakHTTP2 writes frames by itself: a client library would not send what is
// wrong, nor keep the order of fields.
func speakHTTP2(t testing.TB, r *rig, a ask) reply {
	t.Helper()
	cfg := r.trust()
	cfg.ServerName, cfg.NextProtos = "app.test", []string{"h2"}
	c, err := tls.Dial("tcp", r.tls, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(speakingTime))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range a.head() {
		_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
	}
	var wire bytes.Buffer
	wire.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&wire, nil)
	w.AllowIllegalWrites = true
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	_ = w.WriteWindowUpdate(0, 1<<30)
	opening := wire.Len()
	head := block.Bytes()
	first := head[:min(len(head), 16<<10)]
	_ = w.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: first, EndHeaders: len(first) == len(head), EndStream: !a.hasBody() && !a.wait,
	})
	for rest := head[len(first):]; len(rest) > 0; {
		piece := rest[:min(len(rest), 16<<10)]
		rest = rest[len(piece):]
		_ = w.WriteContinuation(1, len(rest) == 0, piece)
	}
	if a.hasBody() {
		for chunk := range slices.Chunk([]byte(a.body), 16<<10) {
			_ = w.WriteData(1, false, chunk)
		}
		switch {
		case a.wait:
		case len(a.trailers) > 0:
			block.Reset()
			for _, f := range a.trailers {
				_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
			}
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		default:
			_ = w.WriteData(1, true, nil)
		}
	}
	begin, rest := wire.Bytes()[:opening], wire.Bytes()[opening:]
	if _, err := c.Write(begin); err != nil { // before we acknowledge anything
		return reply{broken: true}
	}
	go c.Write(rest) // ends with the connection
	return readHTTP2(c)
}

func readHTTP2(c net.Conn) (got reply) {
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			got.broken = true
			return got
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
			continue
		case *http2.RSTStreamFrame:
			got.broken = f.ErrCode != http2.ErrCodeNo
			return got
		case *http2.MetaHeadersFrame:
			if got.status >= 200 {
				got.trailers = make(http.Header)
				for _, h := range f.Fields {
					got.trailers.Add(h.Name, h.Value)
				}
			} else {
				got.fields = make(http.Header)
				for _, h := range f.Fields {
					got.add(h.Name, h.Value)
				}
			}
			if f.StreamEnded() {
				return got
			}
		case *http2.DataFrame:
			got.body += string(f.Data())
			if f.StreamEnded() {
				return got
			}
		}
	}
}

// head is the field section of HTTP/2 and 3.
func (a ask) head() []pair {
	return append([]pair{{":method", a.method}, {":scheme", "https"}, {":authority", a.host}, {":path", a.target}}, a.fieldLines()...)
}

func (r *reply) add(name, value string) {
	if name == ":status" {
		fmt.Sscan(value, &r.status)
		return
	}
	r.fields.Add(name, value)
}

// dialQUIC opens a connection for HTTP/3 with our control stream on it.
func (r *rig) dialQUIC(t testing.TB, name string) *quic.Conn {
	t.Helper()
	cfg := r.trust()
	cfg.ServerName, cfg.NextProtos = name, []string{"h3"}
	ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
	defer cancel()
	var limits quic.Config
	if r.narrow {
		const least = 1 << 10
		limits.InitialStreamReceiveWindow, limits.MaxStreamReceiveWindow = least, least
		limits.InitialConnectionReceiveWindow, limits.MaxConnectionReceiveWindow = least, least
	}
	qc, err := quic.DialAddr(ctx, r.quic(), cfg, &limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = qc.CloseWithError(h3NoError, "") })
	control, err := qc.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Write([]byte{controlStream, settingsFrame, 0}); err != nil {
		t.Fatal(err)
	}
	return qc
}

// fieldSection is a HEADERS frame.
func fieldSection(fields []pair) []byte {
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	for _, f := range fields {
		_ = enc.WriteField(qpack.HeaderField{Name: f.name, Value: f.value})
	}
	if len(fields) == 0 {
		block.Write([]byte{0, 0})
	}
	return append(appendFrameHead(nil, headersFrame, block.Len()), block.Bytes()...)
}

func speakHTTP3(t testing.TB, r *rig, a ask) reply {
	t.Helper()
	qc := r.dialQUIC(t, "app.test")
	defer qc.CloseWithError(h3NoError, "")
	str, err := qc.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_ = str.SetDeadline(time.Now().Add(speakingTime))
	wire := fieldSection(a.head())
	for chunk := range slices.Chunk([]byte(a.body), 10_000) {
		wire = append(appendFrameHead(wire, dataFrame, len(chunk)), chunk...)
	}
	if len(a.trailers) > 0 {
		wire = append(wire, fieldSection(a.trailers)...)
	}
	go func() { // ends with the connection
		if _, err := str.Write(wire); err == nil && !a.wait {
			_ = str.Close()
		}
	}()
	return readHTTP3(str)
}

func readHTTP3(str io.Reader) (got reply) {
	in := source{r: str}
	for {
		kind, length, err := nextFrame(&in)
		if err != nil {
			got.broken = err != io.EOF || got.status == 0
			return got
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(&in, payload); err != nil {
			got.broken = true
			return got
		}
		switch kind {
		case dataFrame:
			got.body += string(payload)
		case headersFrame:
			next := qpack.NewDecoder().Decode(payload)
			fields := make(http.Header)
			final := got.status >= 200
			if final {
				got.trailers = fields
			} else {
				got.fields = fields
			}
			for {
				f, err := next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					panic(err)
				}
				if final {
					fields.Add(f.Name, f.Value)
				} else {
					got.add(f.Name, f.Value)
				}
			}
		}
	}
}
