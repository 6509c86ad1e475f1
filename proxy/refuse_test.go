package proxy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// streamError stands for the reset of a stream, which answers what is no request
// at all on HTTP/2 and 3 (RFC 9113, section 8.1.1; RFC 9114, section 4.1.2).
const streamError = -1

// TestSameRefusal sends what may not be served over every version. Nothing of it
// reaches a backend.
func TestSameRefusal(t *testing.T) {
	addr, got := recorder(t, plainAnswer)
	r := newRig(t, site(addr))
	r.quic()
	get := func(fields ...pair) ask { return ask{method: "GET", target: "/", host: "app.test", fields: fields} }
	post := func(body string, fields ...pair) ask {
		return ask{method: "POST", target: "/", host: "app.test", body: body, noLength: true, fields: fields}
	}
	target := func(s string) ask { return ask{method: "GET", target: s, host: "app.test"} }
	host := func(s string) ask { return ask{method: "GET", target: "/", host: s} }
	method := func(s, target string) ask { return ask{method: s, target: target, host: "app.test"} }
	many := make([]pair, maxFields+1)
	for i := range many {
		many[i] = pair{"x", "y"}
	}
	large := make([]pair, 5)
	for i := range large {
		large[i] = pair{"x", strings.Repeat("y", maxFieldBlock/5)}
	}
	for _, tt := range []struct {
		name          string
		ask           ask
		http1, stream int // 0: passes
	}{
		{"space in the target", target("/a b"), 400, 400},
		{"fragment", target("/a#b"), 400, 400},
		{"fragment in the query", target("/?a#b"), 400, 400},
		{"backslash", target("/a\\b"), 400, 400},
		{"lone percent", target("/a%"), 400, 400},
		{"bad escape", target("/%zz"), 400, 400},
		{"escaped NUL", target("/%00"), 400, 400},
		{"DEL", target("/\x7f"), 400, 400},
		{"control byte", target("/\x01"), 400, 400},
		{"no slash", target("path"), 400, 400},
		{"asterisk of GET", target("*"), 400, 400},
		{"other host in the target", target("http://other.test/"), 400, 400},
		{"no target", target(""), 400, streamError},
		{"long target", target("/" + strings.Repeat("a", maxRequestLine)), 414, 414},
		{"CONNECT", method("CONNECT", "/"), 405, 405},
		{"TRACE", method("TRACE", "/"), 405, 405},
		{"method with a space", method("GE T", "/"), 400, streamError},
		{"method with a control byte", method("GE\x00T", "/"), 400, streamError},
		{"no method", method("", "/"), 400, streamError},
		{"user name", host("user@app.test"), 400, 400},
		{"path in the host", host("app.test/x"), 400, 400},
		{"two hosts", host("app.test,other.test"), 400, 400},
		{"percent sign in the host", host("app%2etest"), 400, 400},
		{"no host", host(""), 400, 400},
		{"port 0", host("app.test:0"), 400, 400},
		{"port too large", host("app.test:65536"), 400, 400},
		{"host of nobody", host("other.test"), 421, 421},
		{"a second host", get(pair{"host", "other.test"}), 400, 400},
		{"name with a space", get(pair{"a b", "x"}), 400, streamError},
		{"name with a control byte", get(pair{"a\x00b", "x"}), 400, streamError},
		{"empty name", get(pair{"", "x"}), 400, streamError},
		{"name in upper case", get(pair{"X-Upper", "x"}), 0, streamError},
		{"pseudo field", get(pair{":path", "/other"}), 400, streamError},
		{"unknown pseudo field", get(pair{":other", "x"}), 400, streamError},
		{"NUL in a value", get(pair{"x", "a\x00b"}), 400, streamError},
		{"DEL in a value", get(pair{"x", "a\x7fb"}), 400, streamError},
		{"bare CR in a value", get(pair{"x", "a\rb"}), 400, streamError},
		{"bare LF in a value", get(pair{"x", "a\nb"}), 400, streamError},
		{"line end in a value", get(pair{"x", "a\r\nx-gateway-target: evil"}), 0, streamError},
		{"space around a value", get(pair{"x", " a "}), 0, streamError},
		{"connection", get(pair{"connection", "keep-alive"}), 0, streamError},
		{"keep-alive", get(pair{"keep-alive", "1"}), 0, streamError},
		{"proxy-connection", get(pair{"proxy-connection", "1"}), 0, streamError},
		{"upgrade", get(pair{"upgrade", "websocket"}), 0, streamError},
		{"TE", get(pair{"te", "gzip"}), 0, streamError},
		{"coding", post("abc", pair{"transfer-encoding", "chunked"}), 400, streamError},
		{"length and coding", post("abc", pair{"content-length", "3"}, pair{"transfer-encoding", "chunked"}), 400, streamError},
		{"two lengths", get(pair{"content-length", "3"}, pair{"content-length", "3"}), 400, streamError},
		{"length with a sign", get(pair{"content-length", "+3"}), 400, streamError},
		{"length with a letter", get(pair{"content-length", "3x"}), 400, streamError},
		{"negative length", get(pair{"content-length", "-3"}), 400, streamError},
		{"endless length", get(pair{"content-length", "9223372036854775808"}), 400, streamError},
		{"list of lengths", get(pair{"content-length", "3, 3"}), 400, streamError},
		{"expectation", get(pair{"expect", "miracles"}), 417, 417},
		{"many fields", get(many...), 431, 431},
		{"large fields", get(large...), 431, 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, s := range speakers {
				want := tt.stream
				if i == 0 {
					want = tt.http1
				}
				rep := s.speak(t, r, tt.ask)
				if want == streamError {
					if !rep.broken || rep.status != 0 {
						t.Errorf("%s: status %d, want a stream error", s.name, rep.status)
					}
					continue
				}
				if want == 0 {
					want = 200
				}
				if rep.status != want || rep.broken {
					t.Errorf("%s: status %d, broken %v, want %d", s.name, rep.status, rep.broken, want)
				}
				for _, raw := range []string{"evil", "miracles", "other.test"} {
					if strings.Contains(rep.body, raw) {
						t.Errorf("%s: the answer repeats the request: %q", s.name, rep.body)
					}
				}
				select {
				case now := <-got:
					if want != 200 {
						t.Errorf("%s: the backend got %+q", s.name, now)
					}
					if strings.Contains(strings.Join(now.fields, "\n"), "evil") {
						t.Errorf("%s: smuggled: %q", s.name, now.fields)
					}
				default:
					if want == 200 {
						t.Errorf("%s: the backend got nothing", s.name)
					}
				}
			}
		})
	}
}

// TestWrongLength has bodies that are not as long as they say: the backend never
// takes one for whole.
func TestWrongLength(t *testing.T) {
	addr, got := recorder(t, plainAnswer)
	r := newRig(t, site(addr))
	r.quic()
	for _, tt := range []struct {
		name, length, body string
	}{
		{"short", "10", "abc"},
		{"empty", "10", ""},
		{"long", "2", "abc"},
		{"much too long", "1000", strings.Repeat("x", 100_000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, s := range speakers[1:] { // on HTTP/1.1 what follows is the next request
				rep := s.speak(t, r, ask{method: "POST", target: "/", host: "app.test", body: tt.body, noLength: true, fields: []pair{{"content-length", tt.length}}})
				if !rep.broken && rep.status != 400 {
					t.Errorf("%s: status %d", s.name, rep.status)
				}
				select {
				case now := <-got:
					if tt.name != "much too long" && tt.name != "long" {
						t.Errorf("%s: the backend got %+q", s.name, now)
					}
				default:
				}
			}
		})
	}
}

// TestSameAtRandom compares requests out of a generator.
func TestSameAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	addr, got := recorder(t, plainAnswer)
	r := newRig(t, site(addr))
	r.quic()
	n := 60
	if testing.Short() {
		n = 10
	}
	for i := range n {
		a := randomAsk(rnd)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d: %+q", seed, fmt.Sprintf("%+v", a))
				}
			}()
			sameRequest(t, r, got, a)
		})
	}
}

// randomAsk makes a request that is allowed on every version, and odd.
func randomAsk(rnd *rand.Rand) ask {
	bytes := func(alphabet string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		return string(b)
	}
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
	const value = "abcXYZ019 ,;=\"\\()<>@[]{}?/:\t\x80\xff"
	const path = "abcXYZ019/-._~!$&'()*+,;=:@"
	a := ask{
		method: []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE"}[rnd.IntN(8)],
		host:   []string{"app.test", "APP.test", "app.test.", "app.test:443", "App.Test:8443"}[rnd.IntN(5)],
		target: "/" + bytes(path, rnd.IntN(50)),
	}
	if rnd.IntN(2) == 0 {
		a.target += "?" + bytes(path+"?\\%{}|\"^<>", rnd.IntN(50))
	}
	names := []string{"accept", "cookie", "x-forwarded-for", "x-gateway-target", "x_real_ip", "authorization", "user-agent", "te", "trailer", "referer"}
	cookie := false
	for range rnd.IntN(30) {
		f := pair{"q" + bytes(token, rnd.IntN(20)), strings.Trim(bytes(value, rnd.IntN(60)), " \t")}
		if rnd.IntN(3) == 0 {
			f.name = names[rnd.IntN(len(names))]
		}
		switch f.name {
		case "te":
			f.value = "trailers"
		case "trailer":
			f.value = "x-" + bytes("abc", 3)
		case "cookie": // several lines are one on a stream
			if cookie {
				continue
			}
			cookie = true
			f.value = strings.TrimLeft(bytes("ab=; ", rnd.IntN(20)), " ") + "gc.sid=x; z=1"
		}
		a.fields = append(a.fields, f)
	}
	if a.method != "HEAD" && a.method != "GET" && rnd.IntN(2) == 0 {
		a.body = bytes("0123456789", 1+rnd.IntN(40_000))
		if a.noLength = rnd.IntN(2) == 0; a.noLength {
			for i := range rnd.IntN(3) {
				a.trailers = append(a.trailers, pair{fmt.Sprintf("x-trailer-%d", i), bytes("abc", 5)})
			}
		}
	}
	return a
}
