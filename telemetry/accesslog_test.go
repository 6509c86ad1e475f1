package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"gatecontrol/model"
)

func newAccessLog(t testing.TB, maxBytes int64) (*AccessLog, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := NewAccessLog(AccessLogOptions{Path: path, Log: slog.New(slog.DiscardHandler), maxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

// running runs l until the test or the returned func ends it.
func running(t testing.TB, l *AccessLog) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func record(n int) *model.AccessRecord {
	return &model.AccessRecord{
		ID: [16]byte{15: byte(n), 14: byte(n >> 8)}, At: time.Unix(1_700_000_000, 123_456_000).Add(time.Duration(n) * time.Second),
		Duration: 1500 * time.Microsecond, Status: 200, Size: int64(n), Remote: netip.MustParseAddr("192.0.2.7"),
		Proto: "HTTP/2.0", TLS: true, Host: []byte("app.test"), Method: []byte("GET"), URI: fmt.Appendf(nil, "/%d?x=1", n), UserAgent: []byte("t/1"),
		Route: 4, Upstream: netip.MustParseAddrPort("10.8.0.2:80"),
	}
}

func TestAccessLine(t *testing.T) {
	r := record(7)
	r.UserAgent = []byte("a\"b\\c\n\x00\x7f\xff{}\u2028é")
	r.Refused, r.Reason, r.Cut = "ip_filter", "a rule matches", model.CutByClient
	line := appendAccess(nil, r)
	if strings.Count(string(line), "\n") != 1 || line[len(line)-1] != '\n' {
		t.Errorf("not one line: %q", line)
	}
	var got map[string]any
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	request := got["request"].(map[string]any)
	for name, want := range map[string]any{
		"ts": 1700000007.123456, "id": "00000000000000000000000000000007", "status": 200.0, "duration": 0.0015, "size": 7.0,
		"route": 4.0, "upstream": "10.8.0.2:80", "refused": "ip_filter", "reason": "a rule matches", "cut": "client",
	} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	for name, want := range map[string]any{
		"remote_ip": "192.0.2.7", "proto": "HTTP/2.0", "tls": true, "method": "GET", "host": "app.test", "uri": "/7?x=1",
		"user_agent": "a\"b\\c\n\x00\x7f\ufffd{}\u2028é",
	} {
		if request[name] != want {
			t.Errorf("request.%s: %q, want %q", name, request[name], want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { line = appendAccess(line[:0], r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAccessText(f *testing.F) {
	f.Add([]byte("a\"\\\n\xff\xe2\x80\u009b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		line := appendText(nil, b)
		var got string
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if utf8.Valid(b) && len(b) <= accessText && got != string(b) {
			t.Errorf("%q became %q", b, got)
		}
		for _, c := range string(line) {
			if c < ' ' || c >= 0x7f && c < 0xa0 {
				t.Errorf("a control character in %q", line)
			}
		}
	})
}

func TestAccessLog(t *testing.T) {
	l, path := newAccessLog(t, 0)
	if list, total, err := l.List(AccessQuery{}, 10, 0); err != nil || total != 0 || len(list) != 0 {
		t.Errorf("without a file: %v, %d, %v", list, total, err)
	}
	stop := running(t, l)
	for n := range 100 {
		r := record(n)
		if n%10 == 0 {
			r.Status, r.Host, r.Method = 404, []byte("Other.Test"), []byte("POST")
		}
		if n%20 == 0 {
			r.Status = 403
		}
		l.Record(r)
	}
	for _, tt := range []struct {
		name          string
		q             AccessQuery
		limit, offset int
		first         string
		length, total int
	}{
		{"newest first", AccessQuery{}, 3, 0, "/99?x=1", 3, 100},
		{"behind others", AccessQuery{}, 3, 98, "/1?x=1", 2, 100},
		{"behind all", AccessQuery{}, 3, 100, "", 0, 100},
		{"host", AccessQuery{Host: "other"}, 50, 0, "/90?x=1", 10, 10},
		{"status by the hundred", AccessQuery{Status: 404}, 50, 0, "/90?x=1", 10, 10},
		{"method", AccessQuery{Method: "GET"}, 1, 0, "/99?x=1", 1, 90},
		{"id", AccessQuery{ID: "0000000000000000000000000000002a"}, 50, 0, "/42?x=1", 1, 1},
		{"part of an id", AccessQuery{ID: "2a"}, 50, 0, "", 0, 0},
		{"together", AccessQuery{Host: "other", Status: 403, Method: "POST"}, 50, 1, "/80?x=1", 9, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, total, err := l.List(tt.q, tt.limit, tt.offset)
			if err != nil || len(list) != tt.length || total != tt.total {
				t.Fatalf("%d of %d, %v; want %d of %d", len(list), total, err, tt.length, tt.total)
			}
			if len(list) > 0 && list[0].URI != tt.first {
				t.Errorf("first is %s, want %s", list[0].URI, tt.first)
			}
		})
	}
	list, _, _ := l.List(AccessQuery{}, 1, 0)
	want := AccessEntry{
		At: time.Unix(1_700_000_099, 123_456_000).UTC(), ID: "00000000000000000000000000000063", Status: 200, Duration: 1500 * time.Microsecond, Size: 99,
		Remote: "192.0.2.7", Proto: "HTTP/2.0", TLS: true, Method: "GET", Host: "app.test", URI: "/99?x=1", Agent: "t/1", Route: 4, Upstream: "10.8.0.2:80",
	}
	if list[0] != want {
		t.Errorf("got %+v, want %+v", list[0], want)
	}
	l.Record(record(100))
	stop()
	b, err := os.ReadFile(path)
	if err != nil || strings.Count(string(b), "\n") != 101 {
		t.Errorf("%d lines at the end, %v", strings.Count(string(b), "\n"), err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestAccessLogRotates(t *testing.T) {
	const maxBytes = 4 << 10
	l, path := newAccessLog(t, maxBytes)
	for n := range 200 {
		l.Record(record(n))
		l.writing.Lock()
		l.flushLocked()
		l.writing.Unlock()
	}
	kept := 0
	for i := range 10 {
		b, err := os.ReadFile(l.name(i))
		if err != nil {
			if i <= accessKeep || !os.IsNotExist(err) {
				t.Error(err)
			}
			continue
		}
		if i > accessKeep || len(b) > maxBytes {
			t.Errorf("%s has %d bytes", l.name(i), len(b))
		}
		kept += strings.Count(string(b), "\n")
	}
	list, total, err := l.List(AccessQuery{}, 1000, 0)
	if err != nil || total != kept || len(list) != kept || list[0].URI != "/199?x=1" {
		t.Errorf("%d of %d, kept %d, %v", len(list), total, kept, err)
	}
	for i := range list { // across the files, too
		if want := fmt.Sprintf("/%d?x=1", 199-i); list[i].URI != want {
			t.Fatalf("entry %d is %s, want %s", i, list[i].URI, want)
		}
	}
	l.close()
	again, err := NewAccessLog(AccessLogOptions{Path: path, Log: l.o.Log, maxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	again.Record(record(200))
	if list, _, err := again.List(AccessQuery{}, 2, 0); err != nil || list[0].URI != "/200?x=1" || list[1].URI != "/199?x=1" {
		t.Errorf("after a restart: %v, %v", list, err)
	}
	again.close()
}

// TestAccessLogFails has no place to write to, and gets one.
func TestAccessLogFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	l, err := NewAccessLog(AccessLogOptions{Path: filepath.Join(dir, "access.log"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l.Record(record(1))
	l.Record(record(2))
	if _, _, err := l.List(AccessQuery{}, 1, 0); err != nil {
		t.Error(err)
	}
	if l.Dropped() != 2 || len(l.Conditions()) != 1 || l.Conditions()[0].Code != "access_log_failed" {
		t.Errorf("%d dropped, %v", l.Dropped(), l.Conditions())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Record(record(3))
	if list, total, err := l.List(AccessQuery{}, 9, 0); err != nil || total != 1 || list[0].URI != "/3?x=1" {
		t.Errorf("%v, %v", list, err)
	}
	if l.Dropped() != 2 || len(l.Conditions()) != 0 {
		t.Errorf("%d dropped, %v", l.Dropped(), l.Conditions())
	}
	l.close()
}

// TestAccessLogIsBounded records while nobody writes.
func TestAccessLogIsBounded(t *testing.T) {
	l, path := newAccessLog(t, 0)
	r := record(1)
	var all sync.WaitGroup
	const each = 5000
	for range 4 {
		all.Go(func() {
			for range each {
				l.Record(r)
			}
		})
	}
	all.Wait()
	if n := len(l.pending); n > accessPending+1000 {
		t.Errorf("%d bytes wait", n)
	}
	l.close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := uint64(strings.Count(string(b), "\n"))
	if lines+l.Dropped() != 4*each || l.Dropped() == 0 {
		t.Errorf("%d lines and %d dropped", lines, l.Dropped())
	}
	if fi, err := os.Stat(path + ".1"); err == nil {
		t.Errorf("there is a second file of %d bytes", fi.Size())
	} else if !os.IsNotExist(err) && err != fs.ErrNotExist {
		t.Error(err)
	}
}

func BenchmarkAccessRecord(b *testing.B) {
	l, _ := newAccessLog(b, 0)
	running(b, l)
	r := record(1)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(r)
	}
}
