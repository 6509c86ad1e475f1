package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// limits are the members of a peer that bound what it may do.
var limits = []string{
	"rate_limit_up", "rate_limit_down", "quota_bytes", "quota_action", "quota_used_bytes", "quota_resets_at", "quota_exceeded",
	"isolated", "no_exit", "trusted",
}

func showLimits(t *testing.T, answer map[string]any) string {
	t.Helper()
	p, _ := answer["peer"].(map[string]any)
	var texts []string
	for _, name := range limits {
		v, ok := p[name]
		if !ok {
			t.Errorf("there is no %s in %v", name, p)
		}
		if n, ok := v.(float64); ok {
			v = int64(n)
		}
		texts = append(texts, fmt.Sprint(v))
	}
	return strings.Join(texts, " ")
}

func TestPeerLimits(t *testing.T) {
	f := newFixture(t)
	peers := f.token(t, "peers")
	const path, none = "/api/v1/peers/1", "<nil> <nil> <nil> block 0 <nil> false false false false"
	if got := showLimits(t, peers.call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)); got != none {
		t.Errorf("a new peer: %s", got)
	}
	f.update(t, func(tx *store.Tx) error {
		return store.Counters.Put(tx, &model.PeerCounters{
			ID: 1, TotalRx: 600, TotalTx: 500, TotalRxPackets: 6, TotalTxPackets: 5, Months: model.Months{{Month: "2026-05", N: 1100}},
		})
	})
	for _, c := range []struct{ name, body, want string }{
		{"all", `{"rate_limit_up":64000,"rate_limit_down":"1000000000","quota_bytes":2000,"quota_action":"notify","isolated":1,"no_exit":"1","trusted":true}`,
			"64000 1000000000 2000 notify 1100 2026-06-01T00:00:00.000Z false true true true"},
		{"some", `{"rate_limit_up":null,"trusted":0}`, "<nil> 1000000000 2000 notify 1100 2026-06-01T00:00:00.000Z false true true false"},
		{"a quota below the use", `{"quota_bytes":"1000","quota_action":"block","isolated":false,"no_exit":false}`,
			"<nil> 1000000000 1000 block 1100 2026-06-01T00:00:00.000Z true false false false"},
		{"nothing", `{"rate_limit_down":0,"quota_bytes":0}`, "<nil> <nil> <nil> block 1100 <nil> false false false false"},
	} {
		if got := showLimits(t, peers.call(t, 200, "PUT", path, c.body)); got != c.want {
			t.Errorf("%s: answered %s, want %s", c.name, got, c.want)
		}
		got := peers.call(t, 200, "GET", path, "")
		if show := showLimits(t, got); show != c.want {
			t.Errorf("%s: %s, want %s", c.name, show, c.want)
		}
		list := peers.call(t, 200, "GET", "/api/v1/peers", "")["peers"].([]any)
		if show := showLimits(t, map[string]any{"peer": list[0]}); show != c.want {
			t.Errorf("%s: listed %s, want %s", c.name, show, c.want)
		}
		f.clock.advance(time.Second)
	}
	if m := f.token(t, "logs").call(t, 200, "GET", "/api/v1/logs/activity?event_type=peer_quota_exceeded&severity=warning", ""); m["total"] != 1.0 {
		t.Errorf("the log has %v", m)
	}
	if got := showLimits(t, peers.call(t, 201, "POST", "/api/v1/peers", `{"name":"b","quota_bytes":5e9,"isolated":true}`)); got !=
		"<nil> <nil> 5000000000 block 0 2026-06-01T00:00:00.000Z false true false false" {
		t.Errorf("a new peer with a quota: %s", got)
	}
	refused := peers.call(t, 400, "PUT", path, `{"rate_limit_up":63999,"rate_limit_down":1e12,"quota_bytes":-1,"quota_action":"x","isolated":"x"}`)
	fields, _ := refused["fields"].(map[string]any)
	if len(fields) == 0 || fields["isolated"] == nil { // what cannot be read is told first
		t.Errorf("fields %v", fields)
	}
	refused = peers.call(t, 400, "PUT", path, `{"rate_limit_up":63999,"rate_limit_down":1e12,"quota_bytes":-1,"quota_action":"x"}`)
	if fields, _ = refused["fields"].(map[string]any); len(fields) != 4 || fields["rate_limit_up"] == nil || fields["rate_limit_down"] == nil ||
		fields["quota_bytes"] == nil || fields["quota_action"] == nil {
		t.Errorf("fields %v", fields)
	}
}

func TestPeerPackets(t *testing.T) {
	f := newFixture(t)
	peers := f.token(t, "peers")
	peers.call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)
	f.update(t, func(tx *store.Tx) error {
		return store.Counters.Put(tx, &model.PeerCounters{ID: 1, TotalRxPackets: 600, TotalTxPackets: 500})
	})
	f.connect(t, 1, time.Second)
	p := peers.call(t, 200, "GET", "/api/v1/peers/1", "")["peer"].(map[string]any)
	if p["rx_packets"] != 10.0 || p["tx_packets"] != 20.0 || p["total_rx_packets"] != 600.0 || p["total_tx_packets"] != 500.0 {
		t.Errorf("packets %v %v, in all %v %v", p["rx_packets"], p["tx_packets"], p["total_rx_packets"], p["total_tx_packets"])
	}
}
