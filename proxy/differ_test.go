package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sighting is a request as a backend got it.
type sighting struct {
	line, host, via string
	framing         string   // of the body
	fields          []string // the others, in order, names in lower case
	body            string
	trailers        []string
}

// recorder is a backend that takes one request per connection apart, byte by
// byte, and gives each the same answer.
func recorder(t testing.TB, answer string) (netip.AddrPort, chan sighting) {
	got := make(chan sighting, 16)
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		s, err := readSighting(br)
		if err != nil {
			return // the proxy gave the request up
		}
		select {
		case got <- s:
		default:
		}
		io.WriteString(c, answer)
	}), got
}

func readSighting(br *bufio.Reader) (s sighting, err error) {
	lines, err := readLines(br)
	if err != nil {
		return s, err
	}
	s.line, lines = lines[0], lines[1:]
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		switch name = strings.ToLower(name); name {
		case "host":
			s.host += value
		case "via":
			s.via += value
		case "content-length", "transfer-encoding":
			s.framing += name + " " + value
		default:
			s.fields = append(s.fields, name+": "+value)
		}
	}
	switch kind, value, _ := strings.Cut(s.framing, " "); kind {
	case "content-length":
		n, err := strconv.Atoi(value)
		if err != nil {
			return s, err
		}
		b := make([]byte, n)
		_, err = io.ReadFull(br, b)
		s.body = string(b)
		return s, err
	case "transfer-encoding":
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return s, err
			}
			n, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 32)
			if err != nil {
				return s, err
			}
			if n == 0 {
				s.trailers, err = readLines(br)
				return s, err
			}
			b := make([]byte, n+2)
			if _, err := io.ReadFull(br, b); err != nil {
				return s, err
			}
			s.body += string(b[:n])
		}
	}
	return s, nil
}

// readLines reads to the empty line, and fails on a line that does not end in CRLF.
func readLines(br *bufio.Reader) (lines []string, err error) {
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil, err
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			return nil, fmt.Errorf("bare LF in %q", line)
		}
		if text == "" {
			return lines, nil
		}
		lines = append(lines, text)
	}
}

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nConnection: close\r\n\r\nhello"

// sameRequest sends one request over every version, and compares what the
// backends get and what the client gets. It returns the request of HTTP/1.1.
func sameRequest(t testing.TB, r *rig, got chan sighting, a ask) sighting {
	t.Helper()
	var first sighting
	var firstReply reply
	for i, s := range speakers {
		rep := s.speak(t, r, a)
		var now sighting
		select {
		case now = <-got:
		default:
			t.Fatalf("%s: the backend got nothing; the client %d, broken %v", s.name, rep.status, rep.broken)
		}
		if want := []string{"1.1", "2.0", "3.0"}[i] + " gatecontrol"; now.via != want {
			t.Errorf("%s: Via %q, want %q", s.name, now.via, want)
		}
		now.via = ""
		if now.body == "" { // on a stream nobody can tell no body from an empty one
			now.framing = "none"
		}
		rep = comparable(rep)
		if i == 0 {
			first, firstReply = now, rep
			continue
		}
		if a, b := fmt.Sprintf("%+q", first), fmt.Sprintf("%+q", now); a != b {
			t.Errorf("%s: the backend got\n%.3000s\nwant\n%.3000s", s.name, b, a)
		}
		if a, b := fmt.Sprintf("%+v", firstReply), fmt.Sprintf("%+v", rep); a != b {
			t.Errorf("%s: the client got\n%.3000s\nwant\n%.3000s", s.name, b, a)
		}
	}
	return first
}

// comparable leaves out what is of one connection.
func comparable(r reply) reply {
	fields := make(http.Header)
	for name, values := range r.fields {
		switch name {
		case "Connection", "Transfer-Encoding", "Trailer", "Alt-Svc":
		default:
			fields[name] = values
		}
	}
	r.fields = fields
	if len(r.trailers) == 0 {
		r.trailers = nil
	}
	return r
}

func TestSameRequest(t *testing.T) {
	addr, got := recorder(t, plainAnswer)
	r := newRig(t, site(addr))
	r.quic()
	long := strings.Repeat("long-", 1500)
	var many []pair
	for i := range 110 {
		many = append(many, pair{"x-field", fmt.Sprint(i)})
	}
	for _, tt := range []struct {
		name string
		ask  ask
	}{
		{"plain", ask{method: "GET", target: "/"}},
		{"target byte for byte", ask{method: "GET", target: "/a/../b//c/%2e%2E/%41;v=1?x=\\&y=%&z='|{}\"<>^`"}},
		{"target with raw UTF-8", ask{method: "GET", target: "/caf\xc3\xa9?\xff\xfe"}},
		{"long target", ask{method: "GET", target: "/" + long}},
		{"two question marks", ask{method: "GET", target: "/??a?b#"[:6]}},
		{"query alone", ask{method: "GET", target: "/?"}},
		{"asterisk", ask{method: "OPTIONS", target: "*"}},
		{"HEAD", ask{method: "HEAD", target: "/h"}},
		{"DELETE", ask{method: "DELETE", target: "/d"}},
		{"unusual method", ask{method: "M-SEARCH", target: "/"}},
		{"lower-case method", ask{method: "get", target: "/"}},
		{"host with port", ask{method: "GET", target: "/", host: "app.test:8443"}},
		{"host in upper case", ask{method: "GET", target: "/", host: "APP.Test"}},
		{"host with a dot", ask{method: "GET", target: "/", host: "app.test."}},
		{"fields in order", ask{method: "GET", target: "/", fields: []pair{{"b", "1"}, {"a", "2"}, {"b", "3"}, {"accept", "*/*"}, {"user-agent", "x"}, {"a", "2"}}}},
		{"odd values", ask{method: "GET", target: "/", fields: []pair{{"empty", ""}, {"tab", "a\tb"}, {"bytes", "\xff\x80é"}, {"quotes", "\"a\\\"b\""}}}},
		{"odd names", ask{method: "GET", target: "/", fields: []pair{{"!#$%&'*+-.^_`|~0", "x"}, {"under_score", "y"}}}},
		{"long value", ask{method: "GET", target: "/", fields: []pair{{"x-long", long}, {"x-longer", long + long}}}},
		{"many fields", ask{method: "GET", target: "/", fields: many}},
		{"cookies", ask{method: "GET", target: "/", fields: []pair{{"cookie", "a=1; gc.sid=stolen;b=2;  gc.route.sid=x; c"}}}},
		{"own cookies alone", ask{method: "GET", target: "/", fields: []pair{{"cookie", "gc.sid=stolen"}}}},
		{"authorization", ask{method: "GET", target: "/", fields: []pair{{"authorization", "Bearer x"}}}},
		{"trailers wanted", ask{method: "GET", target: "/", fields: []pair{{"te", "trailers"}}}},
		{"hop-by-hop", ask{method: "GET", target: "/", fields: []pair{{"proxy-authorization", "Basic x"}, {"http2-settings", "AAMAAABk"}, {"x-kept", "1"}}}},
		{"forwarded forged", ask{method: "GET", target: "/", fields: []pair{
			{"x-forwarded-for", "6.6.6.6"}, {"x-forwarded-host", "evil"}, {"x-forwarded-proto", "gopher"}, {"x-forwarded-port", "1"},
			{"forwarded", "for=6.6.6.6"}, {"x-real-ip", "6.6.6.6"}, {"x_forwarded_for", "6.6.6.6"}, {"x-forwarded_host", "evil"},
			{"x-gateway-target", "evil:1"}, {"x-gateway-target-domain", "evil"}, {"x_gateway_anything", "evil"}, {"x-route-domain", "evil"},
		}}},
		{"small body", ask{method: "POST", target: "/", body: "abc"}},
		{"large body", ask{method: "PUT", target: "/", body: strings.Repeat("0123456789", 20_000)}},
		{"no body, no length", ask{method: "POST", target: "/"}},
		{"no body, with length", ask{method: "POST", target: "/", fields: []pair{{"content-length", "0"}}}},
		{"body of GET", ask{method: "GET", target: "/", body: "abc"}},
		{"body of DELETE", ask{method: "DELETE", target: "/", body: "abc"}},
		{"body without length", ask{method: "POST", target: "/", body: strings.Repeat("0123456789", 300), noLength: true}},
		{"empty body without length", ask{method: "POST", target: "/", noLength: true}},
		{"trailers", ask{method: "POST", target: "/", body: "abc", noLength: true, fields: []pair{{"trailer", "x-sum, x-more"}, {"te", "trailers"}},
			trailers: []pair{{"x-sum", "1"}, {"x-forwarded-for", "6.6.6.6"}, {"content-length", "9"}, {"authorization", "x"}, {"x-more", "2"}}}},
		{"expectation", ask{method: "POST", target: "/", body: "abc", fields: []pair{{"expect", "100-continue"}}}},
		{"content fields", ask{method: "POST", target: "/", body: "abc", fields: []pair{{"content-type", "text/plain"}, {"content-encoding", "identity"}}}},
		{"alternative service", ask{method: "GET", target: "/", fields: []pair{{"alt-used", "app.test"}, {"priority", "u=1"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.ask.host == "" {
				tt.ask.host = "app.test"
			}
			s := sameRequest(t, r, got, tt.ask)
			if want := tt.ask.method + " " + tt.ask.target + " HTTP/1.1"; s.line != want {
				t.Errorf("request line %q, want %q", s.line, want)
			}
			if s.host != tt.ask.host || s.body != tt.ask.body {
				t.Errorf("host %q, %d bytes", s.host, len(s.body))
			}
			all := strings.Join(append(s.fields, s.trailers...), "\n")
			for _, never := range []string{"6.6.6.6", "evil", "gopher", "stolen", "gc.route.sid", "proxy-", "http2-"} {
				if strings.Contains(all, never) {
					t.Errorf("%q got through:\n%s", never, all)
				}
			}
			for _, want := range []string{"x-forwarded-for: 127.0.0.1", "x-forwarded-proto: https", "x-forwarded-host: " + tt.ask.host, "x-real-ip: 127.0.0.1"} {
				if n := len(slices.DeleteFunc(slices.Clone(s.fields), func(f string) bool { return f != want })); n != 1 {
					t.Errorf("%d times %q", n, want)
				}
			}
		})
	}
}

func TestSameAnswer(t *testing.T) {
	const date = "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n"
	big := strings.Repeat("0123456789", 30_000)
	for _, tt := range []struct {
		name, answer, method string
		status               int
		broken               bool
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + date + "\r\nabc", status: 200},
		{name: "large length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n" + date + "\r\n" + big, status: 200},
		{name: "empty", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + date + "\r\n", status: 200},
		{name: "chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + date + "\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", status: 200},
		{name: "large chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + date + "\r\n493e0\r\n" + big + "\r\n0\r\n\r\n", status: 200},
		{name: "trailers", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n" + date + "\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", status: 200},
		{name: "until the end", answer: "HTTP/1.1 200 OK\r\n" + date + "\r\nabc", status: 200},
		{name: "no content", answer: "HTTP/1.1 204 No Content\r\nX-A: 1\r\n" + date + "\r\n", status: 204},
		{name: "not modified", answer: "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 10\r\n" + date + "\r\n", status: 304},
		{name: "HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n" + date + "\r\n", status: 200},
		{name: "HEAD of chunks", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + date + "\r\n", status: 200},
		{name: "HEAD with a body", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + date + "\r\nabc", status: 200},
		{name: "interim answers", answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n" + date + "\r\nx", status: 201},
		{name: "unusual status", answer: "HTTP/1.1 599 Whatever This Is\r\nContent-Length: 0\r\n" + date + "\r\n", status: 599},
		{name: "repeated fields", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nset-cookie: a=1\r\nSet-Cookie: gc.sid=evil\r\nSet-Cookie: b=2\r\nX-A: 1\r\nx-a: 2\r\nX-A:\r\n" + date + "\r\n", status: 200},
		{name: "hop-by-hop", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nAlt-Svc: h3=\":1\"\r\nX-Stay: 1\r\n" + date + "\r\n", status: 200},
		{name: "bytes in a value", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: \xff\xe9\r\n" + date + "\r\n", status: 200},
		{name: "short body", answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n" + date + "\r\nabc", status: 200, broken: true},
		{name: "short large body", answer: "HTTP/1.1 200 OK\r\nContent-Length: 300001\r\n" + date + "\r\n" + big, status: 200, broken: true},
		{name: "chunks without end", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + date + "\r\n3\r\nabc\r\n", status: 200, broken: true},
		{name: "broken chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + date + "\r\n3\r\nabc\r\nzz\r\n", status: 200, broken: true},
		{name: "no answer", answer: "", status: 502},
		{name: "no HTTP", answer: "hello\r\n\r\n", status: 502},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", status: 502},
		{name: "length and chunks", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 502},
		{name: "control byte in a value", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: a\x00b\r\n\r\n", status: 502},
		{name: "an upgrade that nobody asked for", answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", status: 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := recorder(t, tt.answer)
			r := newRig(t, site(addr))
			method := tt.method
			if method == "" {
				method = "GET"
			}
			var first string
			for i, s := range speakers {
				rep := s.speak(t, r, ask{method: method, target: "/", host: "app.test"})
				if tt.broken && rep.broken {
					continue // a reset may overtake what was sent before
				}
				if rep.status != tt.status || rep.broken != tt.broken {
					t.Errorf("%s: status %d, broken %v", s.name, rep.status, rep.broken)
				}
				rep = comparable(rep)
				if method == "HEAD" || rep.status == 204 || rep.status == 304 {
					if rep.body != "" {
						t.Errorf("%s: a body of %d bytes", s.name, len(rep.body))
					}
				}
				for _, own := range []string{"Alt-Svc", "X-Hop", "Keep-Alive", "Proxy-Authenticate", "Upgrade"} {
					if rep.fields[own] != nil {
						t.Errorf("%s: %s got through", s.name, own)
					}
				}
				if rep.status == 502 { // a page of ours, with an id
					rep.body = ""
					for _, name := range []string{"Date", "X-Request-Id"} {
						delete(rep.fields, name)
					}
				}
				text := fmt.Sprintf("%+v", rep)
				if i == 0 {
					first = text
				} else if text != first {
					t.Errorf("%s: the client got\n%.2000s\nwant\n%.2000s", s.name, text, first)
				}
			}
		})
	}
}
