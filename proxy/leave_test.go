package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestClientLeavesAll has a client go away while its backend is silent, and within
// its body: the backend is told, and takes no part for the whole.
func TestClientLeavesAll(t *testing.T) {
	for _, tt := range []struct {
		name string
		body bool
	}{
		{"while the backend is silent", false},
		{"within its body", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				began, ended := make(chan struct{}), make(chan error, 1)
				addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					close(began)
					if _, err = io.Copy(io.Discard, req.Body); err == nil {
						_, err = br.ReadByte()
					}
					ended <- err
				})
				r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = 20 * time.Millisecond })
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				var body io.Reader
				if tt.body {
					body = io.MultiReader(strings.NewReader("abc"), waiting{ctx})
				}
				req, err := http.NewRequestWithContext(ctx, "POST", "https://app.test/", body)
				if err != nil {
					t.Fatal(err)
				}
				if tt.body {
					req.ContentLength = 99_999
				}
				done := make(chan struct{})
				go func() { // awaited below
					defer close(done)
					if resp, err := via(r).Do(req); err == nil {
						resp.Body.Close()
					}
				}()
				<-began
				cancel()
				<-done
				select {
				case err := <-ended:
					if err == nil {
						t.Error("the backend took the part for the whole")
					}
				case <-time.After(10 * time.Second):
					t.Error("the backend was not told")
				}
			})
		})
	}
}

// TestEarlyAnswerAll has a backend refuse a body that it has not read.
func TestEarlyAnswerAll(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, br)
		}
	})
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, site(addr), func(_ *Options, l *limits) { l.discard = 500 * time.Millisecond })
		for range 2 { // the second one shows that the connection, or a new one, serves on
			resp, err := via(r).Post("https://app.test/", "text/plain", io.LimitReader(zeros{}, maxDiscard/2))
			if err != nil {
				t.Fatal(err)
			}
			if body := readAll(t, resp); resp.StatusCode != 413 || body != "no" {
				t.Errorf("%d %q", resp.StatusCode, body)
			}
		}
	})
}

// waiting is a body of which no more comes until ctx ends.
type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
