package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// wireFrame is one frame of HTTP/3.
func wireFrame(kind uint64, payload string) string {
	return string(append(appendFrameHead(nil, kind, len(payload)), payload...))
}

func varints(values ...uint64) string {
	var b []byte
	for _, v := range values {
		b = quicvarint.Append(b, v)
	}
	return string(b)
}

// TestHTTP3Errors sends what breaks the rules of the protocol, and one request
// afterwards from somebody else.
func TestHTTP3Errors(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })),
		func(_ *Options, l *limits) { l.head = 5 * time.Second })
	r.quic()
	post := string(fieldSection(ask{method: "POST", target: "/", host: "app.test"}.head()))
	trailer := string(fieldSection([]pair{{"x-sum", "1"}}))
	const settings = "\x04\x00"
	for _, tt := range []struct {
		name    string
		request string   // on a request stream, with its end
		uni     []string // on unidirectional streams
		code    quic.ApplicationErrorCode
		stream  quic.StreamErrorCode // instead
	}{
		{name: "data before the head", request: wireFrame(dataFrame, "x"), code: h3FrameUnexpected},
		{name: "settings on a request", request: wireFrame(settingsFrame, ""), code: h3FrameUnexpected},
		{name: "GOAWAY on a request", request: post + wireFrame(goawayFrame, "\x00"), code: h3FrameUnexpected},
		{name: "PUSH_PROMISE", request: post + wireFrame(pushPromiseFrame, "\x00"), code: h3FrameUnexpected},
		{name: "frame of HTTP/2", request: wireFrame(0x6, "12345678"), code: h3FrameUnexpected},
		{name: "data behind the trailers", request: post + trailer + wireFrame(dataFrame, "x"), code: h3FrameUnexpected},
		{name: "a second trailer section", request: post + trailer + trailer, code: h3FrameUnexpected},
		{name: "cut frame head", request: "\x01", code: h3FrameError},
		{name: "cut head", request: post[:len(post)-2], code: h3FrameError},
		{name: "cut data", request: post + wireFrame(dataFrame, "12345")[:4], code: h3FrameError},
		{name: "cut trailers", request: post + trailer[:len(trailer)-1], code: h3FrameError},
		{name: "nothing", request: "", stream: h3RequestIncomplete},
		{name: "unknown frames alone", request: wireFrame(0x21, "grease"), stream: h3RequestIncomplete},
		{name: "flood of empty frames", request: strings.Repeat(wireFrame(0x21, ""), maxIdleFrames+1), code: h3ExcessiveLoad},
		{name: "flood of empty data", request: post + strings.Repeat(wireFrame(dataFrame, ""), maxIdleFrames+1), code: h3ExcessiveLoad},
		{name: "dynamic table", request: wireFrame(headersFrame, "\x02\x00\x80"), code: h3DecompressionFailed},
		{name: "index out of the static table", request: wireFrame(headersFrame, "\x00\x00\xff\xff\x7f"), code: h3DecompressionFailed},
		{name: "cut field section", request: wireFrame(headersFrame, "\x00\x00\x51\x85"), code: h3DecompressionFailed},
		{name: "empty field section", request: wireFrame(headersFrame, "\x00\x00"), stream: h3MessageError},
		{name: "pseudo field in trailers", request: post + string(fieldSection([]pair{{":path", "/"}}))},
		{name: "two control streams", uni: []string{varints(controlStream) + settings}, code: h3StreamCreationError},
		{name: "push stream", uni: []string{varints(pushStream, 0)}, code: h3StreamCreationError},
		{name: "two encoder streams", uni: []string{varints(encoderStream) + "\x20", varints(encoderStream) + "\x20"}, code: h3StreamCreationError},
		{name: "insertion into the dynamic table", uni: []string{varints(encoderStream) + "\xc1\x01x"}, code: h3EncoderStreamError},
		{name: "capacity", uni: []string{varints(encoderStream) + "\x3f\xe1\x1f"}, code: h3EncoderStreamError},
		{name: "unknown streams", uni: []string{varints(0x21) + "grease", varints(0x40, 5) + "x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			floods := r.srv.Counts().Limits["http3_flood"]
			c := r.dialQUIC(t, "app.test")
			for _, text := range tt.uni {
				str, err := c.OpenUniStream()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = str.Write([]byte(text))
			}
			var got reply
			var err error
			if tt.uni == nil {
				str, openErr := c.OpenStream()
				if openErr != nil {
					t.Fatal(openErr)
				}
				_ = str.SetDeadline(time.Now().Add(speakingTime))
				_, _ = str.Write([]byte(tt.request))
				_ = str.Close()
				if tt.stream != 0 {
					_, err = io.ReadAll(str)
				} else if got = readHTTP3(str); got.status == 200 && tt.code == 0 {
					t.Errorf("it was served: %+v", got)
				}
			}
			switch {
			case tt.stream != 0:
				var reset *quic.StreamError
				if !errors.As(err, &reset) || reset.ErrorCode != tt.stream {
					t.Errorf("the stream ended with %v, want %#x", err, tt.stream)
				}
			case tt.code != 0:
				select {
				case <-c.Context().Done():
				case <-time.After(speakingTime):
					t.Fatal("the connection goes on")
				}
				var app *quic.ApplicationError
				if err := context.Cause(c.Context()); !errors.As(err, &app) || app.ErrorCode != tt.code || app.ErrorMessage != "" {
					t.Errorf("the connection ended with %v, want %#x", err, tt.code)
				}
				if n := r.srv.Counts().Limits["http3_flood"]; (n > floods) != (tt.code == h3ExcessiveLoad) {
					t.Errorf("%d floods counted, %d before", n, floods)
				}
			default: // the connection goes on
				str, err := c.OpenStream()
				if err != nil {
					t.Fatal(err)
				}
				_ = str.SetDeadline(time.Now().Add(speakingTime))
				_, _ = str.Write(fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head()))
				_ = str.Close()
				if got := readHTTP3(str); got.status != 200 || got.broken {
					t.Errorf("the next request: %+v", got)
				}
			}
		})
	}
	t.Run("first frame of the control stream", func(t *testing.T) {
		for _, tt := range []struct {
			text string
			code quic.ApplicationErrorCode
		}{
			{wireFrame(goawayFrame, "\x00"), h3MissingSettings},
			{settings + settings, h3FrameUnexpected},
			{settings + wireFrame(dataFrame, "x"), h3FrameUnexpected},
			{settings + wireFrame(headersFrame, "x"), h3FrameUnexpected},
			{settings + wireFrame(goawayFrame, "\x40"), h3FrameError},
			{settings + wireFrame(maxPushFrame, ""), h3FrameError},
			{wireFrame(settingsFrame, varints(0x2, 1)), h3SettingsError},
			{wireFrame(settingsFrame, varints(settingConnectProtocol, 2)), h3SettingsError},
			{wireFrame(settingsFrame, varints(0x33, 1, 0x33, 1)), h3SettingsError},
			{wireFrame(settingsFrame, varints(0x33)), h3FrameError},
			{wireFrame(settingsFrame, strings.Repeat("x", maxSettings+1)), h3ExcessiveLoad},
			{settings + wireFrame(0xf0700, "\x00u=1") + wireFrame(0x21, "grease") + wireFrame(maxPushFrame, "\x05"), h3ClosedCriticalStream}, // by its end
		} {
			cfg := r.trust()
			cfg.ServerName, cfg.NextProtos = "app.test", []string{"h3"}
			ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
			c, err := quic.DialAddr(ctx, r.quic(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			str, err := c.OpenUniStream()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = str.Write([]byte(varints(controlStream) + tt.text))
			_ = str.Close()
			select {
			case <-c.Context().Done():
				var app *quic.ApplicationError
				if err := context.Cause(c.Context()); !errors.As(err, &app) || app.ErrorCode != tt.code {
					t.Errorf("%q: %v, want %#x", tt.text, err, tt.code)
				}
			case <-ctx.Done():
				t.Errorf("%q: the connection goes on", tt.text)
			}
			cancel()
		}
	})
}

// FuzzHTTP3 reads the bytes of a request stream as the door does, from a stream
// that has them all.
func FuzzHTTP3(f *testing.F) {
	post := string(fieldSection(ask{method: "POST", target: "/", host: "app.test"}.head()))
	f.Add([]byte(post + wireFrame(dataFrame, "abc") + string(fieldSection([]pair{{"x-sum", "1"}}))))
	f.Add([]byte(wireFrame(0x21, "grease") + post + wireFrame(dataFrame, "")))
	f.Add([]byte("\x00\x40\xff\x01\x80\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := source{r: bytes.NewReader(b)}
		for {
			kind, length, err := nextFrame(&in)
			if err != nil {
				break
			}
			switch kind {
			case settingsFrame:
				err = readSettings(&in, length)
			case goawayFrame:
				err = readID(&in, length)
			case headersFrame:
				_, err = readPayload(&in, length, maxFieldBlock)
			default:
				err = discardFrame(&in, length)
			}
			if err != nil {
				break
			}
			if len(in.buf) > 2*maxFieldBlock {
				t.Fatalf("buffer of %d bytes", len(in.buf))
			}
		}
		for rest := b; ; {
			head, length, ok := cutFrame(rest)
			if !ok || length > uint64(len(rest)-len(head)) {
				break
			}
			rest = rest[len(head)+int(length):]
		}
	})
}

// FuzzFieldSection decodes field sections. What is taken for a request must be one
// under the rules of HTTP/1.1, too, since that is what the backend gets.
func FuzzFieldSection(f *testing.F) {
	for _, a := range []ask{
		{method: "GET", target: "/a?b", host: "app.test", fields: []pair{{"accept", "*/*"}, {"cookie", "a=1"}, {"cookie", "b=2"}}},
		{method: "POST", target: "/", host: "app.test:443", body: "abc", fields: []pair{{"expect", "100-continue"}}},
		{method: "OPTIONS", target: "*", host: "app.test", fields: []pair{{"host", "app.test"}}},
	} {
		section := fieldSection(a.head())
		head, _, _ := cutFrame(section)
		f.Add(section[len(head):])
	}
	decoder := qpack.NewDecoder()
	f.Fuzz(func(t *testing.T, section []byte) {
		var h streamHead
		h.reset()
		for next := decoder.Decode(section); h.status == 0; {
			field, err := next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
			h.add(field.Name, field.Value)
		}
		if h.finish(true) != 0 {
			return
		}
		text := h.appendText(nil)
		line, rest := cutLine(text)
		method, _, _ := bytes.Cut(line, space)
		text = append(append(append(append([]byte(nil), method...), ' '), h.path...), " HTTP/1.1\r\n"...)
		text = append(text, rest...)
		var one requestHead
		if status := one.parse(text); status != 0 {
			t.Fatalf("%d for %q", status, text)
		}
		if !bytes.Equal(one.target, h.path) {
			t.Fatalf("target %q, not %q", one.target, h.path)
		}
		var scan headScan
		if n, _ := scan.next(text); n != len(text) && len(text) < maxFieldBlock {
			t.Fatalf("%d of %d bytes are a head: %q", n, len(text), text)
		}
	})
}
