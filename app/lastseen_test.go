package app_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"gatecontrol/lab"
)

// TestPageOfPeer tells a peer that was never connected from one whose service does
// not run.
func TestPageOfPeer(t *testing.T) {
	s := lab.Start(t)
	on, _ := s.Peer(t, "laptop")
	var made struct{ Peer struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/peers", map[string]any{"name": "nas"}, &made)
	for domain, peer := range map[string]int64{"on.example.com": on, "off.example.com": made.Peer.ID} {
		s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": domain, "peer_id": peer, "target_port": 8000}, nil)
	}
	c := trusting(t, s)
	for _, tt := range []struct{ domain, want, retry string }{
		{"on.example.com", "but laptop does not answer", ""},
		{"off.example.com", "nas is not connected", "30"},
	} {
		req, err := http.NewRequest("GET", "https://"+tt.domain+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/plain")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 502 || !strings.Contains(string(b), tt.want) || resp.Header.Get("Retry-After") != tt.retry {
			t.Errorf("%s: %d %s, %v", tt.domain, resp.StatusCode, b, err)
		}
	}
}
