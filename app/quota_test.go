package app_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/demo"
	"gatecontrol/lab"
)

// quotaView is what a test wants to know of a peer.
type quotaView struct {
	Peer struct {
		Enabled       int
		QuotaBytes    *int64 `json:"quota_bytes"`
		QuotaUsed     int64  `json:"quota_used_bytes"`
		QuotaResetsAt string `json:"quota_resets_at"`
		QuotaExceeded bool   `json:"quota_exceeded"`
		TotalRx       int64  `json:"total_rx"`
		TotalTx       int64  `json:"total_tx"`
	}
}

// TestQuota has a peer download over its quota: it is cut with a line in the
// activity log, stays so over a restart, and returns with a higher quota.
func TestQuota(t *testing.T) {
	o := lab.Options(t)
	o.WGPort = uint16(lab.FreePort(t)) // the peer finds the server again after the restart
	s := lab.Run(t, o)
	signIn := func() {
		s.Admin.Login(t, lab.User, lab.Password)
		s.API = s.Admin.WithToken(s.Admin.MakeToken(t, "full-access"))
	}
	signIn()
	id, p := s.Peer(t, "greedy")
	_, steady := s.Peer(t, "steady")
	path := fmt.Sprintf("/api/v1/peers/%d", id)
	const mebibyte = 1 << 20
	var v quotaView
	s.API.Call(t, 200, "PUT", path, map[string]any{"quota_bytes": mebibyte, "quota_action": "block"}, &v)
	if v.Peer.QuotaBytes == nil || *v.Peer.QuotaBytes != mebibyte || v.Peer.QuotaExceeded || !strings.HasSuffix(v.Peer.QuotaResetsAt, "-01T00:00:00.000Z") {
		t.Fatalf("%+v", v.Peer)
	}

	passed := download(t, p, steady)
	eventually := func(what string, want func(v *quotaView) bool) {
		t.Helper()
		lab.Eventually(t, 20*time.Second, what, func() error {
			var v quotaView
			if s.API.Call(t, 200, "GET", path, nil, &v); !want(&v) {
				return fmt.Errorf("%+v", v.Peer)
			}
			return nil
		})
	}
	eventually("the cut", func(v *quotaView) bool {
		return v.Peer.QuotaExceeded && v.Peer.QuotaUsed >= mebibyte && v.Peer.Enabled == 1
	})
	if reaches(t.Context(), s, p) {
		t.Error("the peer still reaches the server")
	}
	then := passed.Load()
	if !reaches(t.Context(), s, steady) {
		t.Error("another peer was cut, too")
	}
	if got := quotaEvents(t, s, id); got != "peer_quota_exceeded" && got != "peer_quota_exceeded peer_quota_warning" {
		t.Errorf("events %q", got)
	}
	before := quotaEvents(t, s, id)
	if now := passed.Load(); now != then || then == 0 {
		t.Errorf("%d bytes passed before the cut and %d after it", then, now-then)
	}

	s.Stop(t)
	s = lab.Run(t, o)
	signIn()
	eventually("the cut after a restart", func(v *quotaView) bool {
		return v.Peer.QuotaExceeded && v.Peer.QuotaUsed >= mebibyte && v.Peer.QuotaUsed == v.Peer.TotalRx+v.Peer.TotalTx
	})
	if reaches(t.Context(), s, p) {
		t.Error("the peer is back after a restart")
	}

	s.API.Call(t, 200, "PUT", path, map[string]any{"quota_bytes": 100 * mebibyte}, &v)
	if v.Peer.QuotaExceeded || v.Peer.QuotaUsed < mebibyte {
		t.Errorf("after the quota was raised: %+v", v.Peer)
	}
	// Its device shakes hands anew once it has had no answer for 15 seconds.
	lab.Eventually(t, 40*time.Second, "the peer with a higher quota", func() error {
		if !reaches(t.Context(), s, p) {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if got := quotaEvents(t, s, id); got != before {
		t.Errorf("events %q, before %q", got, before)
	}
}

// download has the peer from send without end, at some 800 KiB per second, to the
// peer to, and counts what arrives.
func download(t *testing.T, from, to *demo.Peer) *atomic.Int64 {
	t.Helper()
	ln, err := from.Listen(7000)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
		defer stop()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for err == nil {
			_, err = conn.Write(make([]byte, 8<<10))
			<-tick.C
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	conn, err := to.DialContext(t.Context(), "tcp", net.JoinHostPort(from.Addr.String(), "7000"))
	if err != nil {
		t.Fatal(err)
	}
	passed := new(atomic.Int64)
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			passed.Add(int64(n))
		}
	})
	t.Cleanup(func() { _ = conn.Close() })
	return passed
}

// reaches reports whether p gets a connection to the web port of s in the tunnel
// within a second.
func reaches(ctx context.Context, s *lab.Server, p *demo.Peer) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := p.DialContext(ctx, "tcp", "10.8.0.1:80")
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// quotaEvents names the events about the quota of a peer, newest first.
func quotaEvents(t *testing.T, s *lab.Server, id int64) string {
	t.Helper()
	var log struct {
		Entries []struct {
			Type     string `json:"event_type"`
			Severity string
			Details  struct{ PeerID int64 }
		}
	}
	s.API.Call(t, http.StatusOK, "GET", "/api/v1/logs/activity?source=system&limit=100", nil, &log)
	var list []string
	for _, e := range log.Entries {
		if strings.HasPrefix(e.Type, "peer_quota_") && e.Details.PeerID == id && e.Severity == "warning" {
			list = append(list, e.Type)
		}
	}
	return strings.Join(list, " ")
}
