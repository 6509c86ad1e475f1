package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestStrayBytes has backends send what nobody asked for. It reaches no client: a
// connection that has more to say than an answer is not used again.
func TestStrayBytes(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for _, tt := range []struct{ name, method, answer, stray string }{
		{"a body for HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n", evil},
		{"a body in chunks for HEAD", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", evil},
		{"a body for 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", evil},
		{"a second answer", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", evil},
		{"a farewell", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
			"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			late := make(chan struct{}, 1)
			addr := rawBackend(t, func(c net.Conn, in *bufio.Reader) {
				for {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if req.URL.Path == "/next" {
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
						continue
					}
					_, _ = io.WriteString(c, tt.answer)
					time.Sleep(20 * time.Millisecond) // in a packet of its own
					_, _ = io.WriteString(c, tt.stray)
					late <- struct{}{}
				}
			})
			r := newRig(t, site(addr))
			first := r.client()
			req, _ := http.NewRequest(tt.method, "http://app.test/", nil)
			resp, err := first.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			<-late
			if resp, body := get(t, r.client(), "http://app.test/next"); resp.StatusCode != 200 || body != "good" {
				t.Errorf("another client got %d %q", resp.StatusCode, body)
			}
		})
	}
}

// TestBoundLogin has a backend that takes a login for the whole connection, as NTLM
// and Negotiate do (RFC 4559, section 6). No other client gets that connection.
func TestBoundLogin(t *testing.T) {
	for _, scheme := range []string{"NTLM", "Negotiate", "negotiate"} {
		t.Run(scheme, func(t *testing.T) {
			addr := rawBackend(t, func(c net.Conn, in *bufio.Reader) {
				user := "nobody"
				for {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if req.Header.Get("Authorization") != "" {
						user = "admin"
					}
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(user), user)
				}
			})
			r := newRig(t, site(addr))
			req, _ := http.NewRequest("GET", "http://app.test/", nil)
			req.Header.Set("Authorization", scheme+" TlRMTVNTUAAD")
			resp, err := r.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, resp); got != "admin" {
				t.Fatalf("the first client is %s", got)
			}
			if _, got := get(t, r.client(), "http://app.test/"); got != "nobody" {
				t.Errorf("another client is %s", got)
			}
		})
	}
}
