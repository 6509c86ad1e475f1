package proxy

import (
	"bytes"
	"strings"
	"testing"
)

// section is a field section as a table has it: "name value" per line.
func readSection(h *streamHead, section string) {
	for line := range strings.Lines(section) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		h.add(name, value)
	}
}

const plainGET = ":method GET\n:scheme https\n:authority app.test\n:path /\n"

func TestStreamHead(t *testing.T) {
	post := strings.Replace(plainGET, "GET", "POST", 1)
	connect := ":method CONNECT\n:protocol websocket\n:scheme https\n:authority app.test\n:path /ws\n"
	for _, tt := range []struct {
		name, section string
		body          bool
		want          int
		text          string // of the HTTP/1.1 head, where it matters
	}{
		{name: "smallest", section: plainGET, text: "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"},
		{name: "fields in order", section: plainGET + "b 1\na 2\nb 3\n", text: "GET / HTTP/1.1\r\nHost: app.test\r\nb: 1\r\na: 2\r\nb: 3\r\n\r\n"},
		{name: "crumbs are one cookie", section: plainGET + "cookie a=1\nx y\ncookie b=2\ncookie c=3\n", text: "GET / HTTP/1.1\r\nHost: app.test\r\ncookie: a=1; b=2; c=3\r\nx: y\r\n\r\n"},
		{name: "an empty value", section: plainGET + "x \n"},
		{name: "Host instead of an authority", section: ":method GET\n:scheme https\n:path /\nhost app.test\n", text: "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"},
		{name: "Host that agrees", section: plainGET + "host App.Test.\n"},
		{name: "Host of another name", section: plainGET + "host other.test\n", want: 400},
		{name: "Host with another port", section: plainGET + "host app.test:8443\n", want: 400},
		{name: "Host twice", section: plainGET + "host app.test\nhost app.test\n", want: malformed},
		{name: "no host at all", section: ":method GET\n:scheme https\n:path /\n", want: 400},
		{name: "userinfo in the authority", section: strings.Replace(plainGET, "app.test", "user@app.test", 1), want: 400},
		{name: "a list in the authority", section: strings.Replace(plainGET, "app.test", "app.test,other.test", 1), want: 400},
		{name: "a line end in the authority", section: ":method GET\n:scheme https\n:path /\n:authority app.test\r\n", want: 400},

		{name: "no method", section: ":scheme https\n:authority app.test\n:path /\n", want: malformed},
		{name: "no scheme", section: ":method GET\n:authority app.test\n:path /\n", want: malformed},
		{name: "no path", section: ":method GET\n:scheme https\n:authority app.test\n", want: malformed},
		{name: "empty path", section: ":method GET\n:scheme https\n:authority app.test\n:path \n", want: malformed},
		{name: "method twice", section: plainGET + ":method GET\n", want: malformed},
		{name: "pseudo field behind a field", section: ":method GET\n:scheme https\n:authority app.test\nx y\n:path /\n", want: malformed},
		{name: "pseudo field behind Host", section: ":method GET\n:scheme https\nhost app.test\n:path /\n", want: malformed},
		{name: "unknown pseudo field", section: plainGET + ":x y\n", want: malformed},
		{name: "pseudo field of an answer", section: plainGET + ":status 200\n", want: malformed},
		{name: "a method that is no token", section: strings.Replace(plainGET, "GET", "GET /x", 1), want: malformed},
		{name: "another scheme", section: strings.Replace(plainGET, "https", "ftp", 1), want: 400},
		{name: "CONNECT", section: ":method CONNECT\n:authority app.test:443\n", want: 405},
		{name: "TRACE", section: strings.Replace(plainGET, "GET", "TRACE", 1), want: 405},

		{name: "path without slash", section: strings.Replace(plainGET, ":path /", ":path x", 1), want: 400},
		{name: "path with a space", section: strings.Replace(plainGET, ":path /", ":path /a HTTP/1.1", 1), want: 400},
		{name: "path with a line end", section: ":method GET\n:scheme https\n:authority app.test\n:path /\r\n", want: 400},
		{name: "path with a fragment", section: strings.Replace(plainGET, ":path /", ":path /a#b", 1), want: 400},
		{name: "path with a backslash", section: strings.Replace(plainGET, ":path /", `:path /a\b`, 1), want: 400},
		{name: "path with a zero byte", section: strings.Replace(plainGET, ":path /", ":path /%00", 1), want: 400},
		{name: "absolute form", section: strings.Replace(plainGET, ":path /", ":path http://other.test/", 1), want: 400},
		{name: "asterisk", section: strings.Replace(plainGET, ":path /", ":path *", 1), want: 400},
		{name: "asterisk with OPTIONS", section: ":method OPTIONS\n:scheme https\n:authority app.test\n:path *\n"},
		{name: "long path", section: strings.Replace(plainGET, ":path /", ":path /"+strings.Repeat("a", maxRequestLine), 1), want: 414},

		{name: "upper case", section: plainGET + "X-Y z\n", want: malformed},
		{name: "a name with a colon", section: plainGET + "x:y z\n", want: malformed},
		{name: "a name with a line end", section: plainGET + "x\r z\n", want: malformed},
		{name: "an empty name", section: plainGET + " z\n", want: malformed},
		{name: "a value with a carriage return", section: plainGET + "x a\rb\n", want: malformed},
		{name: "a value with a zero byte", section: plainGET + "x a\x00b\n", want: malformed},
		{name: "a value with DEL", section: plainGET + "x a\x7fb\n", want: malformed},
		{name: "a value that begins with a space", section: plainGET + "x  a\n", want: malformed},
		{name: "a value that ends with a tab", section: plainGET + "x a\t\n", want: malformed},
		{name: "a value with a tab", section: plainGET + "x a\tb\n"},
		{name: "Connection", section: plainGET + "connection close\n", want: malformed},
		{name: "Keep-Alive", section: plainGET + "keep-alive timeout=5\n", want: malformed},
		{name: "Proxy-Connection", section: plainGET + "proxy-connection keep-alive\n", want: malformed},
		{name: "Transfer-Encoding", section: post + "transfer-encoding chunked\n", body: true, want: malformed},
		{name: "Upgrade", section: plainGET + "upgrade websocket\n", want: malformed},
		{name: "TE: trailers", section: plainGET + "te trailers\n"},
		{name: "TE: gzip", section: plainGET + "te gzip\n", want: malformed},
		{name: "TE: trailers, gzip", section: plainGET + "te trailers, gzip\n", want: malformed},
		{name: "another Expect", section: post + "expect tea\n", body: true, want: 417},

		{name: "a length", section: post + "content-length 5\n", body: true},
		{name: "a length twice", section: post + "content-length 5\ncontent-length 5\n", body: true, want: malformed},
		{name: "a list of lengths", section: post + "content-length 5, 5\n", body: true, want: malformed},
		{name: "a negative length", section: post + "content-length -5\n", body: true, want: malformed},
		{name: "a length with a sign", section: post + "content-length +5\n", body: true, want: malformed},
		{name: "a length of 64 bits", section: post + "content-length 9223372036854775808\n", body: true, want: malformed},
		{name: "a length without body", section: post + "content-length 5\n", want: malformed},
		{name: "no length and no body", section: post, text: "POST / HTTP/1.1\r\nHost: app.test\r\ncontent-length: 0\r\n\r\n"},
		{name: "no length and a body", section: post, body: true, text: "POST / HTTP/1.1\r\nHost: app.test\r\n\r\n"},

		{name: "most fields", section: plainGET + strings.Repeat("x y\n", maxFields-1)},
		{name: "one field too many", section: plainGET + strings.Repeat("x y\n", maxFields), want: 431},
		{name: "many crumbs", section: plainGET + strings.Repeat("cookie a=b\n", 2*maxFields)},
		{name: "too large", section: plainGET + "x " + strings.Repeat("y", maxFieldBlock) + "\n", want: 431},
		{name: "too large by overhead", section: plainGET + strings.Repeat("cookie a=b\n", maxFieldBlock/40), want: 431},

		{name: "WebSocket", section: connect + "sec-websocket-version 13\nsec-websocket-key abc\n", body: true},
		{name: "another protocol", section: strings.Replace(connect, "websocket", "connect-udp", 1), body: true, want: 501},
		{name: "a WebSocket with a length", section: connect + "content-length 5\n", body: true, want: malformed},
		{name: "a WebSocket with a length of nothing", section: connect + "content-length 0\n", body: true, want: malformed},
		{name: "a protocol with GET", section: strings.Replace(connect, "CONNECT", "GET", 1), want: malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h streamHead
			readSection(&h, tt.section)
			if got := h.finish(!tt.body); got != tt.want {
				t.Fatalf("status %d, want %d", got, tt.want)
			}
			if tt.want != 0 {
				return
			}
			text := h.appendText(nil)
			if tt.text != "" && string(text) != tt.text {
				t.Errorf("head %q, want %q", text, tt.text)
			}
			checkText(t, &h, text)
		})
	}
}

// checkText sees to it that the strict checks of HTTP/1.1 take what those of
// streams took, and read the same from it.
func checkText(t *testing.T, h *streamHead, text []byte) {
	t.Helper()
	text = bytes.Replace(text, []byte(" / "), append(append([]byte(" "), h.path...), ' '), 1)
	var scan headScan
	n, status := scan.next(text)
	if n != len(text) || status != 0 {
		t.Fatalf("HTTP/1.1 refuses %q with %d, or sees %d of %d bytes", text, status, n, len(text))
	}
	var r requestHead
	if status := r.parse(text); status != 0 {
		t.Fatalf("HTTP/1.1 refuses %q with %d", text, status)
	}
	length := h.length
	if length == unknownLength || h.protocol {
		length = 0
	}
	if r.length != length || !bytes.Equal(r.target, h.path) {
		t.Errorf("HTTP/1.1 reads length %d and target %q, streams %d and %q", r.length, r.target, length, h.path)
	}
}

func TestStreamTrailer(t *testing.T) {
	for _, tt := range []struct {
		name, field, value, want string
		bad                      bool
	}{
		{name: "plain", field: "grpc-status", value: "0", want: "grpc-status: 0\r\n"},
		{name: "framing is left out", field: "content-length", value: "5"},
		{name: "routing is left out", field: "host", value: "other.test"},
		{name: "ours is left out", field: "x-real-ip", value: "1.2.3.4"},
		{name: "credentials are left out", field: "authorization", value: "Basic x"},
		{name: "pseudo field", field: ":path", value: "/", bad: true},
		{name: "upper case", field: "X", value: "y", bad: true},
		{name: "line end", field: "x", value: "a\r\nb: c", bad: true},
		{name: "too large", field: "x", value: strings.Repeat("y", maxTrailerSize), bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var tr streamTrailer
			tr.add(tt.field, tt.value)
			if tr.malformed != tt.bad || !tt.bad && string(tr.lines) != tt.want {
				t.Errorf("malformed %v, lines %q", tr.malformed, tr.lines)
			}
		})
	}
}

// FuzzStreamHead compares the checks with those of HTTP/1.1: what passes here must
// be one request there, with the same target and length.
func FuzzStreamHead(f *testing.F) {
	f.Add(plainGET+"cookie a\nx y\ncookie b\n", false)
	f.Add(":method POST\n:scheme https\n:path /x?y\nhost app.test\ncontent-length 3\n", true)
	f.Add(":method CONNECT\n:protocol websocket\n:scheme https\n:authority app.test\n:path /ws\n", true)
	f.Fuzz(func(t *testing.T, section string, body bool) {
		var h streamHead
		readSection(&h, section)
		if h.finish(!body) == 0 {
			checkText(t, &h, h.appendText(nil))
		}
	})
}
