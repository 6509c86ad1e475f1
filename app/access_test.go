package app_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatecontrol/lab"
)

// TestAccessLogFindsPage looks up the request whose number an error page shows,
// and the one that a peer's service answered.
func TestAccessLogFindsPage(t *testing.T) {
	s := lab.Start(t)
	id, p := s.Peer(t, "nas")
	publish(t, s, id, p, "app.example.com", "hello")
	c := trusting(t, s)
	resp, err := c.Get("https://app.example.com/x?token=abc")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	resp.Body.Close()
	req, err := http.NewRequest("GET", "http://"+s.Addrs().HTTP+"/y", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "nobody.example.com"
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err = plain.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	number := resp.Header.Get("X-Request-Id")
	var found struct {
		Total   int
		Entries []struct {
			Host, URI, Method, Refused string
			Status                     int
			RouteID                    int64 `json:"route_id"`
			Size                       int64
		}
	}
	s.API.Call(t, 200, "GET", "/api/v1/logs/access?request_id="+number, nil, &found)
	if found.Total != 1 || len(found.Entries) != 1 || found.Entries[0].Host != "nobody.example.com" || found.Entries[0].Status != 404 || found.Entries[0].URI != "/y" {
		t.Errorf("request %s: %+v", number, found)
	}
	s.API.Call(t, 200, "GET", "/api/v1/logs/access?domain=app.example&status=200", nil, &found)
	if e := found.Entries; len(e) != 1 || e[0].URI != "/x?token=[redacted]" || e[0].Size != 5 || e[0].RouteID == 0 {
		t.Errorf("%+v", found)
	}
	s.Stop(t)
	b, err := os.ReadFile(filepath.Join(s.Dir, "access.log"))
	if err != nil || !strings.Contains(string(b), number) || strings.Contains(string(b), "abc") {
		t.Errorf("the file holds %s, %v", b, err)
	}
}
