package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// echoHead answers with the raw head that it got.
func echoHead(t testing.TB, fields string) netip.AddrPort {
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		for {
			var head strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
				head.WriteString(line)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 Fine\r\n%sContent-Length: %d\r\n\r\n%s", fields, head.Len(), head.String())
		}
	})
}

// has reports whether a raw head has exactly this line.
func has(head, line string) bool { return strings.Contains("\r\n"+head, "\r\n"+line+"\r\n") }

func TestRequestFields(t *testing.T) {
	addr := echoHead(t, "")
	cfg := site(addr)
	trusting := site(addr)
	trusting.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, tt := range []struct {
		name    string
		cfg     Config
		send    []string
		want    []string
		unwoken []string // must not be part of any line, in lower case
	}{
		{name: "ours are set", cfg: cfg,
			want: []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: app.test:81", "X-Forwarded-Proto: http", "X-Forwarded-Port: 81",
				"X-Real-IP: 127.0.0.1", "Via: 1.1 gatecontrol", "Host: app.test:81"}},
		{name: "theirs are not believed", cfg: cfg,
			send: []string{"X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 7.7.7.7", "X_Forwarded_For: 6.6.6.6", "X-Forwarded_Proto: evil", "X-Real-Ip: 6.6.6.6",
				"Forwarded: for=6.6.6.6", "X-Gateway-Target: evil", "x_gateway_anything: evil", "X-Route-Domain: evil", "X-Forwarded-Host: evil", "X-Forwarded-Proto: evil", "X-Forwarded-Port: 666"},
			want:    []string{"X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "X-Forwarded-Proto: http"},
			unwoken: []string{"6.6.6.6", "7.7.7.7", "evil", "666", "x_forwarded", "forwarded: for", "gateway-target"}},
		{name: "a trusted proxy is believed", cfg: trusting,
			send: []string{"X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: out.test", "X-Forwarded-Port: 443",
				"X-Real-IP: 6.6.6.6", "X_Forwarded_Proto: evil"},
			want: []string{"X-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: out.test", "X-Forwarded-Port: 443",
				"X-Real-IP: 127.0.0.1"},
			unwoken: []string{"evil"}},
		{name: "fields of the hop", cfg: cfg,
			send: []string{"Connection: keep-alive, X-Hop, close2", "Connection: X-Other", "X-Hop: gone", "x-other: gone", "Close2: gone", "Keep-Alive: gone",
				"Proxy-Connection: gone", "Proxy-Authorization: gone", "Proxy-Anything: gone", "TE: gzip, trailers", "Upgrade: gone", "HTTP2-Settings: gone", "Expect-Not: stays"},
			want:    []string{"TE: trailers", "Connection: TE", "Expect-Not: stays"},
			unwoken: []string{"gone", "keep-alive"}},
		{name: "what connection cannot remove", cfg: cfg,
			send: []string{"Connection: Host, Cookie, Authorization, Content-Type, X-Forwarded-For, X-Real-IP, Via", "Cookie: a=b", "Authorization: Bearer x", "Content-Type: text/x"},
			want: []string{"Host: app.test:81", "Cookie: a=b", "Authorization: Bearer x", "Content-Type: text/x", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Via: 1.1 gatecontrol"}},
		{name: "h2c is no upgrade", cfg: cfg,
			send:    []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"},
			unwoken: []string{"h2c", "upgrade", "settings"}},
		{name: "a list of protocols is no upgrade", cfg: cfg,
			send:    []string{"Connection: Upgrade", "Upgrade: websocket, h2c"},
			unwoken: []string{"upgrade", "websocket"}},
		{name: "upgrade without connection", cfg: cfg, send: []string{"Upgrade: websocket"}, unwoken: []string{"upgrade"}},
		{name: "our cookies", cfg: cfg,
			send:    []string{`Cookie: a="b c"; gc.sid=secret1; x=;gc.route.sid=secret2;  gc.sidx=y; =z`},
			want:    []string{`Cookie: a="b c"; x=;  gc.sidx=y; =z`},
			unwoken: []string{"secret"}},
		{name: "our cookie first", cfg: cfg, send: []string{"Cookie: gc.sid=secret1; a=b"}, want: []string{"Cookie: a=b"}, unwoken: []string{"secret"}},
		{name: "our cookies alone", cfg: cfg, send: []string{"Cookie: gc.sid=secret1"}, unwoken: []string{"cookie"}},
		{name: "names keep their spelling", cfg: cfg,
			send: []string{"sec-WebSocket-kEY: x", "x-y_z: 1", "X-y_z: 2", "User-Agent: u", "ACCEPT-encoding: zstd", "Content-TYPE: a", "date: d"},
			want: []string{"sec-WebSocket-kEY: x", "x-y_z: 1", "X-y_z: 2", "User-Agent: u", "ACCEPT-encoding: zstd", "Content-TYPE: a", "date: d"}},
		{name: "no field is added beside ours", cfg: cfg, unwoken: []string{"user-agent", "accept", "content-type", "content-length", "transfer-encoding", "connection"}},
		{name: "via grows", cfg: cfg, send: []string{"Via: 1.0 front"}, want: []string{"Via: 1.0 front", "Via: 1.1 gatecontrol"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			c := r.dial()
			fmt.Fprintf(c, "GET /%%41/../b?c=d HTTP/1.1\r\nHost: app.test:81\r\n%s\r\n\r\n", strings.Join(append(tt.send, "X-Last: 1"), "\r\n"))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := readAll(t, resp)
			for _, line := range append(tt.want, "GET /%41/../b?c=d HTTP/1.1", "X-Last: 1") {
				if !has(got, line) {
					t.Errorf("no line %q", line)
				}
			}
			for _, part := range tt.unwoken {
				if strings.Contains(strings.ToLower(got), part) {
					t.Errorf("%q is still there", part)
				}
			}
			if t.Failed() {
				t.Logf("backend got\n%s", got)
			}
		})
	}
}

func TestSecureFields(t *testing.T) {
	r := newRig(t, site(echoHead(t, "")))
	resp, body := get(t, r.client(), "https://app.test/")
	for _, line := range []string{"X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Host: app.test"} {
		if !has(body, line) {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
	if resp.Header.Get("Via") != "1.1 gatecontrol" {
		t.Errorf("Via of the answer is %q", resp.Header.Get("Via"))
	}
}
