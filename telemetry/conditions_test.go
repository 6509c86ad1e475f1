package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
)

// states are what a source of a test says, and what is logged of it.
type states struct {
	*Conditions
	now  time.Time
	list []Condition
	log  bytes.Buffer
}

func newStates() *states {
	s := &states{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	s.Conditions = NewConditions(ConditionsOptions{
		Log: slog.New(slog.NewTextHandler(&s.log, nil)), Now: func() time.Time { return s.now }, Interval: time.Minute,
		Sources: []func() []Condition{func() []Condition { return nil }, func() []Condition { return s.list }},
	})
	return s
}

// look has s look at a list of conditions, and returns the lines that this logs.
func (s *states) look(list ...Condition) int {
	s.list = list
	s.log.Reset()
	s.Look()
	s.now = s.now.Add(time.Minute)
	return strings.Count(s.log.String(), "\n")
}

func TestConditionsBeginAndEnd(t *testing.T) {
	s := newStates()
	began := s.now
	warning := Condition{Code: "peer_unreachable", Subject: "alpha", Peer: 3, Severity: model.SeverityWarning, Text: "No route."}
	if n := s.look(warning); n != 1 || !strings.Contains(s.log.String(), "level=WARN") || !strings.Contains(s.log.String(), "alpha") {
		t.Errorf("logged: %s", &s.log)
	}
	warning.Text = "Still no route."
	if n := s.look(warning, warning); n != 0 {
		t.Errorf("logged again: %s", &s.log)
	}
	if got := s.List(); len(got) != 1 || !got[0].Since.Equal(began) || got[0].Text != "Still no route." {
		t.Errorf("conditions: %+v", got)
	}
	other := warning
	other.Subject, other.Peer, other.Since = "beta", 4, began.Add(-time.Hour)
	failed := Condition{Code: "store_failed", Severity: model.SeverityError}
	if n := s.look(warning, other, failed); n != 2 || !strings.Contains(s.log.String(), "level=ERROR") {
		t.Errorf("logged: %s", &s.log)
	}
	if got := s.List(); len(got) != 3 || got[0].Code != "store_failed" || got[1].Peer != 4 || !got[1].Since.Equal(other.Since) || got[2].Peer != 3 {
		t.Errorf("conditions: %+v", got)
	}
	if n := s.look(other); n != 2 || strings.Count(s.log.String(), "level=INFO") != 2 {
		t.Errorf("logged: %s", &s.log)
	}
	s.look()
	again := s.now
	s.look(warning)
	if got := s.List(); len(got) != 1 || !got[0].Since.Equal(again) {
		t.Errorf("conditions: %+v", got)
	}
}

// More than can be listed are counted. Those that are listed stay.
func TestConditionsAreBounded(t *testing.T) {
	s := newStates()
	var many []Condition
	for i := range 3 * maxConditions {
		many = append(many, Condition{Code: "peer_unreachable", Peer: model.PeerID(i + 1), Severity: model.SeverityWarning})
	}
	listed := func() (peers map[model.PeerID]bool, rest string) {
		peers = make(map[model.PeerID]bool)
		for _, c := range s.List() {
			if c.Code == "more_conditions" {
				rest = c.Text
			} else {
				peers[c.Peer] = true
			}
		}
		return peers, rest
	}
	last := many[2*maxConditions:]
	s.look(last...)
	if peers, rest := listed(); len(peers) != maxConditions || rest != "" {
		t.Errorf("%d, and %q", len(peers), rest)
	}
	if n := s.look(many...); n != 1+1 { // and those that were left out at first
		t.Errorf("%d lines in the log:\n%s", n, &s.log)
	}
	peers, rest := listed()
	for _, c := range last {
		if !peers[c.Peer] {
			t.Fatalf("the condition of peer %d was put out", c.Peer)
		}
	}
	if len(peers) != maxConditions || !strings.Contains(rest, fmt.Sprint(2*maxConditions)) {
		t.Errorf("%d, and %q", len(peers), rest)
	}
	s.look(many[1:]...)
	if n := s.look(many[:maxConditions]...); n != maxLines {
		t.Errorf("%d lines in the log", n)
	}
	if peers, rest := listed(); len(peers) != maxConditions || rest != "" {
		t.Errorf("%d, and %q", len(peers), rest)
	}
	// What does not work is listed, and logged, however many warnings there are.
	s.look(many...)
	failed := Condition{Code: "store_failed", Severity: model.SeverityError}
	if n := s.look(append(many, failed)...); !strings.Contains(s.log.String(), "store_failed") {
		t.Errorf("%d lines in the log:\n%s", n, &s.log)
	}
	if list := s.List(); len(list) != maxConditions+1 || list[0].Code != "store_failed" {
		t.Errorf("%d conditions, the first: %+v", len(list), list[0])
	}
}

// One that comes and goes all the time does not fill the log.
func TestConditionsLogIsBounded(t *testing.T) {
	s := newStates()
	c := Condition{Code: "peer_unconfirmed", Peer: 1, Severity: model.SeverityWarning}
	for range 100 {
		for _, s.list = range [][]Condition{{c}, nil} {
			s.Look()
		}
		s.now = s.now.Add(time.Second)
	}
	if lines := strings.Count(s.log.String(), "\n"); lines != maxLines+1+maxLines {
		t.Errorf("%d lines in 100 seconds:\n%s", lines, &s.log)
	}
	s.now = s.now.Add(time.Hour)
	if n := s.look(c); n != 2 || !strings.Contains(s.log.String(), "more=") {
		t.Errorf("%d lines in the log:\n%s", n, &s.log)
	}
}

func TestConditionsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStates()
		ctx, looks := t.Context(), 0
		s.o.Sources = append(s.o.Sources, func() []Condition { looks++; return nil })
		var running sync.WaitGroup
		running.Go(func() { _ = s.Run(ctx) })
		t.Cleanup(running.Wait)
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if looks != 11 {
			t.Errorf("%d looks in ten minutes", looks)
		}
	})
}

func TestTunnelConditions(t *testing.T) {
	u := newTunnel(t, 3)
	var whole model.Trouble
	source := TunnelConditions(u.db, func() (model.Trouble, []model.PeerStatus) { return whole, u.status })
	if list := source(); len(list) != 0 {
		t.Errorf("conditions: %+v", list)
	}
	since := u.now.Add(-time.Minute)
	for _, code := range []model.TroubleCode{model.TroubleUnsent, model.TroubleForged, model.TroubleClock, model.TroubleUnconfirmed} {
		u.status[1].Trouble = model.Trouble{Code: code, Since: since, Detail: "network is unreachable"}
		list := source()
		if len(list) != 1 || list[0].Code != string(code) || list[0].Peer != u.peers[1] || list[0].Subject != "b" ||
			list[0].Severity != model.SeverityWarning || !list[0].Since.Equal(since) || list[0].Text == "" {
			t.Errorf("%s: %+v", code, list)
		}
		if said := strings.Contains(list[0].Text, "network is unreachable"); said != (code == model.TroubleUnsent) {
			t.Errorf("%s: %s", code, list[0].Text)
		}
	}
	whole = model.Trouble{Code: model.TroublePort, Since: since, Detail: "address already in use"}
	u.status[1].Trouble = model.Trouble{}
	stranger := model.PublicKey{9}
	u.status = append(u.status, model.PeerStatus{PublicKey: stranger, Trouble: model.Trouble{Code: model.TroubleClock}})
	list := source()
	if len(list) != 2 || list[0].Severity != model.SeverityError || !strings.Contains(list[0].Text, "address already in use") {
		t.Fatalf("conditions: %+v", list)
	}
	if list[1].Peer != 0 || list[1].Subject != stranger.String() {
		t.Errorf("a peer that is not stored: %+v", list[1])
	}
}

func TestTrafficCondition(t *testing.T) {
	u := newTunnel(t, 1)
	tr := u.traffic()
	refused, cancel := context.WithCancel(t.Context())
	cancel() // any write fails
	for _, step := range []struct {
		ctx   context.Context
		bytes uint64
		want  int
	}{{t.Context(), 100, 0}, {refused, 100, 1}, {t.Context(), 0, 0}, {refused, 100, 1}, {t.Context(), 100, 0}} {
		u.status[0].RxBytes += step.bytes
		_ = tr.Sample(step.ctx)
		list := tr.Conditions()
		if len(list) != step.want || len(list) == 1 && !strings.Contains(list[0].Text, context.Canceled.Error()) {
			t.Errorf("conditions: %+v", list)
		}
	}
}
