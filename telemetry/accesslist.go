package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"gatecontrol/model"
)

// AccessQuery chooses requests of the access log; what is empty chooses all.
type AccessQuery struct {
	ID     string // exact
	Host   string // part of it, in any case
	Method string // exact
	Status int    // any of the same hundred
}

// AccessEntry is one request of the access log.
type AccessEntry struct {
	At       time.Time
	ID       string
	Status   int
	Duration time.Duration
	Size     int64
	Remote   string
	Proto    string
	TLS      bool
	Method   string
	Host     string
	URI      string
	Agent    string
	Route    model.RouteID
	Upstream string
	Refused  string
	Reason   string
	Cut      string
}

// accessLine is an entry as it is stored.
type accessLine struct {
	TS       float64 `json:"ts"`
	ID       string  `json:"id"`
	Status   int     `json:"status"`
	Duration float64 `json:"duration"`
	Size     int64   `json:"size"`
	Request  struct {
		Remote string `json:"remote_ip"`
		Proto  string `json:"proto"`
		TLS    bool   `json:"tls"`
		Method string `json:"method"`
		Host   string `json:"host"`
		URI    string `json:"uri"`
		Agent  string `json:"user_agent"`
	} `json:"request"`
	Route    model.RouteID `json:"route"`
	Upstream string        `json:"upstream"`
	Refused  string        `json:"refused"`
	Reason   string        `json:"reason"`
	Cut      string        `json:"cut"`
}

// List returns up to limit of the requests that q chooses, behind the first offset
// of them, newest first, and how many there are in all. It looks at every file that
// is kept, and at what was not yet written.
func (l *AccessLog) List(q AccessQuery, limit, offset int) (list []AccessEntry, total int, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.flushLocked()
	for i := 0; i <= accessKeep; i++ {
		b, err := readBounded(l.name(i), l.o.maxBytes+accessPending)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		for len(b) > 0 {
			b = bytes.TrimSuffix(b, []byte{'\n'})
			at := bytes.LastIndexByte(b, '\n') + 1
			line := b[at:]
			b = b[:at]
			wanted := total >= offset && len(list) < limit
			if q == (AccessQuery{}) && !wanted { // only counted
				total++
				continue
			}
			e, ok := q.read(line)
			if !ok {
				continue
			}
			if wanted {
				list = append(list, e)
			}
			total++
		}
	}
	return list, total, nil
}

// readBounded reads a file, but no more than limit of it.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// read reads a line and reports whether q chooses it. A line that is none of ours
// is chosen by nothing.
func (q *AccessQuery) read(line []byte) (AccessEntry, bool) {
	if q.ID != "" && !bytes.Contains(line, []byte(q.ID)) {
		return AccessEntry{}, false
	}
	var s accessLine
	if json.Unmarshal(line, &s) != nil {
		return AccessEntry{}, false
	}
	switch {
	case q.ID != "" && s.ID != q.ID,
		q.Method != "" && s.Request.Method != q.Method,
		q.Host != "" && !strings.Contains(strings.ToLower(s.Request.Host), strings.ToLower(q.Host)),
		q.Status != 0 && s.Status/100 != q.Status/100:
		return AccessEntry{}, false
	}
	return AccessEntry{
		At: time.UnixMicro(int64(s.TS*1e6 + 0.5)).UTC(), ID: s.ID, Status: s.Status, Duration: time.Duration(s.Duration * float64(time.Second)), Size: s.Size,
		Remote: s.Request.Remote, Proto: s.Request.Proto, TLS: s.Request.TLS, Method: s.Request.Method, Host: s.Request.Host,
		URI: s.Request.URI, Agent: s.Request.Agent, Route: s.Route, Upstream: s.Upstream, Refused: s.Refused, Reason: s.Reason, Cut: s.Cut,
	}, true
}
