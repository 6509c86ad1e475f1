package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/valyala/fasthttp"
)

// readBody reads a body from raw bytes, which arrive as r gives them.
func readBody(r io.Reader, f framing, length int64) (string, string, error) {
	var b body
	src := &source{r: r}
	b.reset(src, f, length)
	got, err := io.ReadAll(&b)
	rest, _ := io.ReadAll(src)
	return string(got), string(rest), err
}

func TestBody(t *testing.T) {
	for _, tt := range []struct {
		name    string
		raw     string
		framing framing
		length  int64
		want    string
		rest    string
		err     error
	}{
		{"fixed", "abcdef", fixedBody, 3, "abc", "def", nil},
		{"empty", "abcdef", fixedBody, 0, "", "abcdef", nil},
		{"none", "abcdef", noBody, 0, "", "abcdef", nil},
		{"short", "ab", fixedBody, 3, "ab", "", io.ErrUnexpectedEOF},
		{"until close", "abc", closeBody, 0, "abc", "", nil},
		{"chunks", "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nrest", chunkedBody, 0, "abcde", "rest", nil},
		{"trailers", "1\r\na\r\n0\r\nX: y\r\nZ: z\r\n\r\nrest", chunkedBody, 0, "a", "rest", nil},
		{"no chunks", "0\r\n\r\nrest", chunkedBody, 0, "", "rest", nil},
		{"leading zeros", "0003\r\nabc\r\n00\r\n\r\nrest", chunkedBody, 0, "abc", "rest", nil},
		{"ends in a chunk", "5\r\nabc", chunkedBody, 0, "abc", "", io.ErrUnexpectedEOF},
		{"ends behind a chunk", "3\r\nabc\r\n", chunkedBody, 0, "abc", "", io.ErrUnexpectedEOF},
		{"ends in the trailers", "3\r\nabc\r\n0\r\nX: y\r\n", chunkedBody, 0, "abc", "", io.ErrUnexpectedEOF},
		{"endless line", strings.Repeat("0", 5000), chunkedBody, 0, "", "", errChunk},
		{"endless trailers", "0\r\n" + strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 1000), chunkedBody, 0, "", "", errChunk},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"at once":      strings.NewReader(tt.raw),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.raw)),
				"in halves":    iotest.HalfReader(strings.NewReader(tt.raw)),
			} {
				got, rest, err := readBody(r, tt.framing, tt.length)
				if got != tt.want || !errors.Is(err, tt.err) || tt.err == nil && rest != tt.rest {
					t.Errorf("%s: %q, rest %q, %v", how, got, rest, err)
				}
			}
		})
	}
}

func TestTakeBody(t *testing.T) {
	for _, tt := range []struct {
		name, raw string
		framing   framing
		want      string
		ok        bool
	}{
		{"fixed", "abcrest", fixedBody, "abc", true},
		{"fixed, not all there", "ab", fixedBody, "", false},
		{"chunks", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\nrest", chunkedBody, "abc", true},
		{"chunks, not all there", "1\r\na\r\n2\r\nbc\r\n0\r\n\r", chunkedBody, "", false},
		{"chunks with trailers", "1\r\na\r\n0\r\nX: y\r\n\r\n", chunkedBody, "", false},
		{"broken chunks", "1\r\nab\r\n0\r\n\r\n", chunkedBody, "", false},
		{"until close", "abc", closeBody, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := &source{r: strings.NewReader(tt.raw)}
			if err := src.fill(firstBuffer); err != nil {
				t.Fatal(err)
			}
			var b body
			b.reset(src, tt.framing, 3)
			got, ok := b.take(100)
			if string(got) != tt.want || ok != tt.ok || ok != b.complete() {
				t.Errorf("%q %v, complete %v", got, ok, b.complete())
			}
			if rest := string(src.buffered()); ok && rest != "rest" || !ok && rest != tt.raw {
				t.Errorf("left %q", rest)
			}
		})
	}
}

// FuzzChunks checks the chunk reader against that of net/http: what we accept,
// it reads as the same bytes; and the two ways of ours agree.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"3\r\nabc\r\n0\r\n\r\n", "1;x\r\na\r\n0\r\nX: y\r\n\r\nrest", "f\r\n", "0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, _, err := readBody(bytes.NewReader(raw), chunkedBody, 0)
		slow, _, slowErr := readBody(iotest.OneByteReader(bytes.NewReader(raw)), chunkedBody, 0)
		if got != slow || (err == nil) != (slowErr == nil) {
			t.Fatalf("at once %q %v, byte by byte %q %v", got, err, slow, slowErr)
		}
		src := &source{r: bytes.NewReader(raw)}
		var b body
		b.reset(src, chunkedBody, 0)
		if len(raw) > 0 && len(raw) < firstBuffer && src.fill(firstBuffer) == nil {
			if taken, ok := b.take(firstBuffer); ok && (err != nil || string(taken) != got) {
				t.Fatalf("taken %q, read %q %v", taken, got, err)
			}
		}
		if err != nil {
			return
		}
		theirs, theirErr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if theirErr == nil && string(theirs) != got {
			t.Fatalf("we read %q, net/http %q", got, theirs)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
		"HTTP/1.0 302 \nLocation: /\n\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X, Host\r\nConnection: X\r\nSet-Cookie: gc.sid=1\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	r := &route{host: "a.test"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := answerEnd(raw, 0)
		if n == 0 {
			return
		}
		var a answer
		if a.parse(raw[:n], false) != nil {
			return
		}
		// What goes to the client is sound whatever the backend sent.
		out := append(a.appendHead(nil, r, true), "\r\n"...)
		var b answer
		if answerEnd(out, 0) != len(out) || b.parse(out, false) != nil {
			t.Fatalf("%q became %q", raw[:n], out)
		}
		var h fasthttp.ResponseHeader
		h.DisableNormalizing()
		if err := new(headReader).read(&h, out); err != nil {
			t.Fatalf("fasthttp does not take %q: %v", out, err)
		}
		for _, value := range h.PeekAll("Set-Cookie") {
			name, _, _ := bytes.Cut(value, equals)
			if ownCookie(trimSpace(name)) {
				t.Fatalf("%q passes one of our cookies", out)
			}
		}
	})
}

func TestIsClean(t *testing.T) {
	for c := range 256 {
		for at := range 17 {
			b := bytes.Repeat([]byte{'x'}, 17)
			b[at] = byte(c)
			want := c == '\t' || c >= ' ' && c != 0x7f
			if isClean(b) != want {
				t.Fatalf("byte %#x at %d: %v", c, at, !want)
			}
		}
	}
}
