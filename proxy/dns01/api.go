package dns01

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxAnswer bounds what is read of an answer: lists of a few records.
const maxAnswer = 256 << 10

// api is a JSON API behind one address.
type api struct {
	client        *http.Client
	base          string
	authorization string
}

// apiError is an answer that is not a success.
type apiError struct {
	status int
	text   string // of the answer, shortened
}

func (e *apiError) Error() string {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("the DNS provider refuses the credentials (%d): %s", e.status, e.text)
	case http.StatusTooManyRequests:
		return fmt.Sprintf("the DNS provider has had too many requests (%d): %s", e.status, e.text)
	}
	return fmt.Sprintf("the DNS provider answers %d: %s", e.status, e.text)
}

// call sends in as JSON, unless it is nil, and reads the answer into out, unless
// that is nil. The credentials are in no error.
func (a *api) call(ctx context.Context, method, path string, in, out any, fields ...string) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.authorization != "" {
		req.Header.Set("Authorization", a.authorization)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("the DNS provider cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the answer of the DNS provider was cut: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return &apiError{resp.StatusCode, excerpt(raw)}
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the answer of the DNS provider cannot be read: %w", err)
	}
	return nil
}

// excerpt is the beginning of an answer, in printable characters.
func excerpt(raw []byte) string {
	const most = 200
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '�' {
			return ' '
		}
		return r
	}, string(raw[:min(len(raw), most)]))
	return strings.TrimSpace(text)
}

func quote(value string) string { return `"` + value + `"` }

func unquote(value string) string { return strings.Trim(value, `"`) }
