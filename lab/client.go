package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"testing"
	"time"
)

// Client calls the API of a server as a script would. Its zero Token calls
// without one; Login makes it a signed-in browser.
type Client struct {
	Base  string // for example http://127.0.0.1:3000
	Token string
	CSRF  string
	HTTP  *http.Client
}

// NewClient returns a client that keeps cookies.
func NewClient(base string) *Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // only with a broken public suffix list, and there is none
	}
	return &Client{Base: base, HTTP: &http.Client{
		Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Try sends one request with a JSON body (nil for none), decodes the JSON answer
// into out (nil to drop it) and returns the status.
func (c *Client) Try(ctx context.Context, method, path string, body, out any) (int, error) {
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, r)
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.CSRF != "" {
		req.Header.Set("X-CSRF-Token", c.CSRF)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err
	}
	if out != nil {
		if s, ok := out.(*string); ok {
			*s = string(raw)
		} else if err := json.Unmarshal(raw, out); err != nil {
			return res.StatusCode, fmt.Errorf("%s %s: %s: %w: %s", method, path, res.Status, err, raw)
		}
	}
	return res.StatusCode, nil
}

// Call is Try for a request that must be answered with the status want.
func (c *Client) Call(t testing.TB, want int, method, path string, body, out any) {
	t.Helper()
	var raw string
	status, err := c.Try(t.Context(), method, path, body, &raw)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if status != want {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, status, want, raw)
	}
	switch p := out.(type) {
	case nil:
	case *string:
		*p = raw
	default:
		if err := json.Unmarshal([]byte(raw), out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, raw)
		}
	}
}

// Login signs in, so that later calls carry the cookie and the CSRF token.
func (c *Client) Login(t testing.TB, user, password string) {
	t.Helper()
	var answer struct{ CSRFToken string }
	c.Call(t, http.StatusOK, "POST", "/login", map[string]string{"username": user, "password": password}, &answer)
	c.CSRF = answer.CSRFToken
}

// MakeToken creates an API token with the given scopes. c must be signed in.
func (c *Client) MakeToken(t testing.TB, scopes ...string) string {
	t.Helper()
	var answer struct{ Token string }
	c.Call(t, http.StatusCreated, "POST", "/api/v1/tokens", map[string]any{"name": "test", "scopes": scopes}, &answer)
	return answer.Token
}

// WithToken returns a client with an API token in place of a login.
func (c *Client) WithToken(token string) *Client {
	d := NewClient(c.Base)
	d.HTTP.Transport = c.HTTP.Transport
	d.Token = token
	return d
}
