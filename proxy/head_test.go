package proxy

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

var statusLine = regexp.MustCompile(`HTTP/1\.1 (\d{3}) `)

// statuses returns the status codes of the answers in a raw stream, as "200 404".
func statuses(raw string) string {
	var all []string
	for _, m := range statusLine.FindAllStringSubmatch(raw, -1) {
		all = append(all, m[1])
	}
	return strings.Join(all, " ")
}

// marker is followed in every case by a well-formed request to /smuggled: it must
// be answered only where the first message is sound.
const marker = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"

func TestRawHeads(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "[%s %s %d %v]", r.Method, r.RequestURI, n, err)
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.discard = 200 * time.Millisecond })
	head := func(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }
	for _, tt := range []struct {
		name, raw, want string
	}{
		{"simple", head("GET / HTTP/1.1", "Host: app.test"), "200 200"},
		{"http 1.0", head("GET / HTTP/1.0", "Host: app.test"), "200"},
		{"http 1.0 keep-alive", head("GET / HTTP/1.0", "Host: app.test", "Connection: keep-alive"), "200 200"},
		{"http 1.0 without host", head("GET / HTTP/1.0"), "404"},
		{"empty line before", "\r\n" + head("GET / HTTP/1.1", "Host: app.test"), "200 200"},
		{"lower-case names", head("GET / HTTP/1.1", "host: app.test"), "200 200"},
		{"tab and spaces around a value", head("GET / HTTP/1.1", "Host:\t app.test \t"), "200 200"},
		{"length", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 3") + "abc", "200 200"},
		{"length in lower case", head("POST / HTTP/1.1", "host: app.test", "content-length: 3") + "abc", "200 200"},
		{"chunked", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: Chunked") + "3\r\nabc\r\n0\r\n\r\n", "200 200"},
		{"chunk extension", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3;a=\"b\"\r\nabc\r\n0;x\r\n\r\n", "200 200"},
		{"trailer", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\nX-A: b\r\n\r\n", "200 200"},
		{"get with a body", head("GET / HTTP/1.1", "Host: app.test", "Content-Length: 3") + "abc", "200 200"},
		{"absolute form", head("GET http://app.test/x HTTP/1.1", "Host: app.test"), "200 200"},
		{"absolute form, https, no path", head("GET HTTPS://APP.test:443?q HTTP/1.1", "Host: app.test"), "200 200"},
		{"options of the server", head("OPTIONS * HTTP/1.1", "Host: app.test"), "200 200"},
		{"backslash in query", head(`GET /?a\b%c HTTP/1.1`, "Host: app.test"), "200 200"},
		{"unknown method", head("PURGE / HTTP/1.1", "Host: app.test"), "200 200"},
		{"other name with underscore", head("GET / HTTP/1.1", "Host: app.test", "X_Y: 1", "Content_Length: 9"), "200 200"},
		{"128 fields", head("GET / HTTP/1.1", "Host: app.test", strings.Repeat("A: b\r\n", 126)+"A: c"), "200 200"},
		{"target of 8 KiB", head("GET /"+strings.Repeat("a", 8000)+" HTTP/1.1", "Host: app.test"), "200 200"},

		{"length and coding", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 3", "Transfer-Encoding: chunked") + "0\r\n\r\n", "400"},
		{"two lengths", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 3", "Content-Length: 4") + "abc", "400"},
		{"two equal lengths", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 3", "Content-Length: 3") + "abc", "400"},
		{"list of lengths", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 3, 3") + "abc", "400"},
		{"signed length", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: +3") + "abc", "400"},
		{"empty length", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: "), "400"},
		{"hex length", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 0x3") + "abc", "400"},
		{"huge length", head("POST / HTTP/1.1", "Host: app.test", "Content-Length: 9223372036854775808"), "400"},
		{"two codings", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n", "400"},
		{"other coding", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: gzip, chunked") + "0\r\n\r\n", "400"},
		{"identity", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: identity"), "400"},
		{"coding with a vertical tab", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: \vchunked") + "0\r\n\r\n", "400"},
		{"coding in http 1.0", head("POST / HTTP/1.0", "Host: app.test", "Transfer-Encoding: chunked") + "0\r\n\r\n", "400"},
		{"lone LF", "GET / HTTP/1.1\nHost: app.test\n\n", "400"},
		{"lone LF between fields", "GET / HTTP/1.1\r\nHost: app.test\nX: y\r\n\r\n", "400"},
		{"lone LF at the end", "GET / HTTP/1.1\r\nHost: app.test\r\n\n", "400"},
		{"lone LF first", "\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "400"},
		{"lone CR in a value", head("GET / HTTP/1.1", "Host: app.test", "X: a\rb"), "400"},
		{"NUL in a value", head("GET / HTTP/1.1", "Host: app.test", "X: a\x00b"), "400"},
		{"control byte in a value", head("GET / HTTP/1.1", "Host: app.test", "X: a\x01b"), "400"},
		{"DEL in a value", head("GET / HTTP/1.1", "Host: app.test", "X: a\x7fb"), "400"},
		{"folded line", head("GET / HTTP/1.1", "Host: app.test", "X: a", " b"), "400"},
		{"folded first line", head("GET / HTTP/1.1", " Host: app.test"), "400"},
		{"space before the colon", head("GET / HTTP/1.1", "Host: app.test", "Content-Length : 3"), "400"},
		{"space in a name", head("GET / HTTP/1.1", "Host: app.test", "Content Length: 3"), "400"},
		{"no name", head("GET / HTTP/1.1", "Host: app.test", ": x"), "400"},
		{"no colon", head("GET / HTTP/1.1", "Host: app.test", "X"), "400"},
		{"name not a token", head("GET / HTTP/1.1", "Host: app.test", "X(: 1"), "400"},
		{"no host", head("GET / HTTP/1.1", "X: y"), "400"},
		{"two hosts", head("GET / HTTP/1.1", "Host: app.test", "Host: app.test"), "400"},
		{"empty host", head("GET / HTTP/1.1", "Host:"), "400"},
		{"userinfo in host", head("GET / HTTP/1.1", "Host: user@app.test"), "400"},
		{"path in host", head("GET / HTTP/1.1", "Host: app.test/x"), "400"},
		{"list in host", head("GET / HTTP/1.1", "Host: app.test, b.test"), "400"},
		{"percent in host", head("GET / HTTP/1.1", "Host: app%2etest"), "400"},
		{"port 0", head("GET / HTTP/1.1", "Host: app.test:0"), "400"},
		{"port too large", head("GET / HTTP/1.1", "Host: app.test:65536"), "400"},
		{"empty port", head("GET / HTTP/1.1", "Host: app.test:"), "400"},
		{"absolute form of another host", head("GET http://b.test/ HTTP/1.1", "Host: app.test"), "400"},
		{"absolute form with userinfo", head("GET http://u@app.test/ HTTP/1.1", "Host: app.test"), "400"},
		{"absolute form, other scheme", head("GET ftp://app.test/ HTTP/1.1", "Host: app.test"), "400"},
		{"authority form", head("GET app.test:80 HTTP/1.1", "Host: app.test"), "400"},
		{"asterisk", head("GET * HTTP/1.1", "Host: app.test"), "400"},
		{"space in target", head("GET /a b HTTP/1.1", "Host: app.test"), "400"},
		{"two spaces", head("GET  / HTTP/1.1", "Host: app.test"), "400"},
		{"space at the end of the line", head("GET / HTTP/1.1 ", "Host: app.test"), "400"},
		{"control byte in target", head("GET /a\x01b HTTP/1.1", "Host: app.test"), "400"},
		{"fragment", head("GET /a#b HTTP/1.1", "Host: app.test"), "400"},
		{"fragment in query", head("GET /a?b#c HTTP/1.1", "Host: app.test"), "400"},
		{"backslash in path", head(`GET /a\b HTTP/1.1`, "Host: app.test"), "400"},
		{"bad escape", head("GET /%zz HTTP/1.1", "Host: app.test"), "400"},
		{"short escape", head("GET /%a HTTP/1.1", "Host: app.test"), "400"},
		{"escaped NUL", head("GET /%00 HTTP/1.1", "Host: app.test"), "400"},
		{"http 0.9", "GET /\r\n\r\n", "400"},
		{"lower-case protocol", head("GET / http/1.1", "Host: app.test"), "400"},
		{"method not a token", head("G(T / HTTP/1.1", "Host: app.test"), "400"},
		{"tls on the plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"},
		{"http 2.0", head("GET / HTTP/2.0", "Host: app.test"), "505"},
		{"http 2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"},
		{"http 1.2", head("GET / HTTP/1.2", "Host: app.test"), "505"},
		{"connect", head("CONNECT app.test:443 HTTP/1.1", "Host: app.test"), "405"},
		{"trace", head("TRACE / HTTP/1.1", "Host: app.test"), "405"},
		{"other expectation", head("POST / HTTP/1.1", "Host: app.test", "Expect: 200-ok", "Content-Length: 3") + "abc", "417"},
		{"long target", head("GET /"+strings.Repeat("a", 8192)+" HTTP/1.1", "Host: app.test"), "414"},
		{"endless request line", strings.Repeat("A", 100<<10), "414"},
		{"many fields", head("GET / HTTP/1.1", "Host: app.test", strings.Repeat("A: b\r\n", 127)+"A: c"), "431"},
		{"long field", head("GET / HTTP/1.1", "Host: app.test", "X: "+strings.Repeat("a", 33<<10)), "431"},
		{"endless fields", "GET / HTTP/1.1\r\nHost: app.test\r\nX: " + strings.Repeat("a", 100<<10), "431"},

		{"chunk size not hex", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "g\r\nabc\r\n0\r\n\r\n", "400"},
		{"chunk size with sign", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "+3\r\nabc\r\n0\r\n\r\n", "400"},
		{"chunk size with prefix", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "0x3\r\nabc\r\n0\r\n\r\n", "400"},
		{"empty chunk size", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "\r\nabc\r\n0\r\n\r\n", "400"},
		{"huge chunk", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "ffffffffffffffff\r\nabc\r\n0\r\n\r\n", "400"},
		{"chunk line ended by LF", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3\nabc\r\n0\r\n\r\n", "400"},
		{"chunk ended by LF", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3\r\nabc\n0\r\n\r\n", "400"},
		{"chunk longer than its size", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3\r\nabcd\r\n0\r\n\r\n", "400"},
		{"LF in chunk extension", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3;a\nb\r\nabc\r\n0\r\n\r\n", "400"},
		{"bad trailer", head("POST / HTTP/1.1", "Host: app.test", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\nX A: b\r\n\r\n", "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := r.raw(tt.raw + marker)
			if statuses(got) != tt.want {
				t.Errorf("answers %q, want %s\n%.300q", statuses(got), tt.want, got)
			}
			if served := strings.Contains(got, "[GET /smuggled"); served != strings.HasSuffix(tt.want, "200 200") {
				t.Errorf("the request behind it was served: %v", served)
			}
			if strings.HasPrefix(tt.want, "4") && strings.Contains(got, "app.test") {
				t.Errorf("the answer quotes the request: %.300q", got)
			}
		})
	}
}

func TestHeadInPieces(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "[%s %s]", r.RequestURI, b)
	})
	r := newRig(t, site(addr))
	c := r.dial()
	msg := "POST /a HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n" +
		"POST /b HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfghi"
	for i := range msg {
		if _, err := io.WriteString(c, msg[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.Contains(got, "[/a abcde]") || !strings.Contains(got, "[/b fghi]") {
		t.Errorf("got %q", got)
	}
}

func TestHeadTimeLimit(t *testing.T) {
	r := newRig(t, Config{}, func(_ *Options, l *limits) { l.head, l.idle = 150*time.Millisecond, 20*time.Second })
	c := r.dial()
	start := time.Now()
	go func() { // drips, which must not extend the limit
		for _, b := range []byte("GET / HTTP/1.1\r\nHost: app.test\r\nX: " + strings.Repeat("a", 10000)) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	b, _ := io.ReadAll(c)
	if took := time.Since(start); len(b) != 0 || took > 10*time.Second {
		t.Errorf("ended after %v with %q", took, b)
	}
}

func FuzzRequestHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
		"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"OPTIONS http://[::1]:1 HTTP/1.1\r\nHost: [::1]\r\nConnection: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, cut int) {
		b := []byte(s)
		var whole headScan
		n, status := whole.next(b)
		// In pieces, the same head is found, or refused likewise.
		var parts headScan
		cut = min(max(cut, 0), len(b))
		n2, status2 := parts.next(b[:cut])
		if n2 == 0 && status2 == 0 {
			n2, status2 = parts.next(b)
		}
		if n != n2 || (status == 0) != (status2 == 0) {
			t.Fatalf("whole: %d, %d; in pieces: %d, %d", n, status, n2, status2)
		}
		if n == 0 || status != 0 {
			return
		}
		var h requestHead
		if h.parse(b[:n]) != 0 {
			return
		}
		if len(h.target) == 0 || h.length < unknownLength {
			t.Fatalf("accepted %+v", h)
		}
		// What was accepted must mean the same to a second, independent reader.
		req, err := http.ReadRequest(newReader(b[:n]))
		if err != nil {
			return // stricter than we are, about versions of names for example
		}
		if te := len(req.TransferEncoding) > 0; te != (h.length == unknownLength) || !te && req.ContentLength != h.length {
			t.Fatalf("framing: %+v, net/http says %d %v", h, req.ContentLength, req.TransferEncoding)
		}
	})
}
