package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

const (
	accessMaxBytes = 10 << 20 // of one file, then the next one is begun
	accessKeep     = 3        // full files that are kept beside it
	// accessPending bounds what waits for the disk; what finds no room is counted
	// and not logged. It is ten thousand requests.
	accessPending = 4 << 20
	// accessBatch is written without waiting for more.
	accessBatch = 256 << 10
	// accessDelay is how long the first line of a batch waits for others: one write
	// for each request would cost as much as answering it.
	accessDelay = 200 * time.Millisecond
	// accessText bounds each text of a line.
	accessText = 2 << 10
	// accessKept is the longest line whose memory is kept for others.
	accessKept = 8 << 10
)

// AccessLogOptions are what an AccessLog works with.
type AccessLogOptions struct {
	Path string // of the newest file; older ones have .1 to .3 behind it
	Log  *slog.Logger

	maxBytes int64 // of tests; 0: accessMaxBytes
}

// AccessLog keeps one line of JSON per request, in files of bounded size. Its
// methods may be called from any goroutine; Record never waits for the disk.
type AccessLog struct {
	o       AccessLogOptions
	wake    chan struct{} // there is something to write
	hurry   chan struct{} // there is enough of it
	dropped atomic.Uint64
	lines   sync.Pool // of *[]byte, in which lines are made

	mu      sync.Mutex
	pending []byte
	spare   []byte

	writing sync.Mutex // one writer or reader of the files at a time
	file    *os.File
	size    int64
	failed  error // why the last write failed; nil: it did not
}

// NewAccessLog checks o. Files are opened when there is something to write.
func NewAccessLog(o AccessLogOptions) (*AccessLog, error) {
	if o.Path == "" || o.Log == nil {
		return nil, errors.New("telemetry: an access log needs a path and a log")
	}
	if o.maxBytes == 0 {
		o.maxBytes = accessMaxBytes
	}
	l := &AccessLog{o: o, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	l.lines.New = func() any { return new([]byte) }
	return l, nil
}

// Record notes a request. It does not keep r. All requests meet here, so the lock is
// held for a copy of the line, and not while the line is made: a thread that the
// system stops with the lock stops every request.
func (l *AccessLog) Record(r *model.AccessRecord) {
	line := l.lines.Get().(*[]byte)
	*line = appendAccess((*line)[:0], r)
	l.mu.Lock()
	before := len(l.pending)
	full := before >= accessPending
	if !full {
		l.pending = append(l.pending, *line...)
	}
	after := len(l.pending)
	l.mu.Unlock()
	if cap(*line) <= accessKept {
		l.lines.Put(line)
	}
	if full {
		l.dropped.Add(1)
		return
	}
	if before == 0 {
		signal(l.wake)
	}
	if before < accessBatch && after >= accessBatch {
		signal(l.hurry)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped is how many requests were not logged since the start, because the disk
// was too slow or full.
func (l *AccessLog) Dropped() uint64 { return l.dropped.Load() }

// Run writes until ctx ends, and then what is left.
func (l *AccessLog) Run(ctx context.Context) error {
	delay := time.NewTimer(accessDelay)
	defer delay.Stop()
	defer l.close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		}
		delay.Reset(accessDelay)
		select {
		case <-ctx.Done():
			return nil
		case <-l.hurry:
		case <-delay.C:
		}
		l.writing.Lock()
		l.flushLocked()
		l.writing.Unlock()
	}
}

func (l *AccessLog) close() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.flushLocked()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// flushLocked writes what waits. A failure is logged once, until a write works
// again; what could not be written counts as dropped.
func (l *AccessLog) flushLocked() {
	l.mu.Lock()
	batch := l.pending
	l.pending = l.spare[:0]
	l.mu.Unlock()
	defer func() {
		if cap(batch) > 4*accessBatch {
			batch = nil
		}
		l.mu.Lock()
		l.spare = batch[:0]
		l.mu.Unlock()
	}()
	if len(batch) == 0 {
		return
	}
	err := l.writeLocked(batch)
	if err != nil {
		lines := uint64(0)
		for _, c := range batch {
			if c == '\n' {
				lines++
			}
		}
		l.dropped.Add(lines)
		if l.failed == nil {
			l.o.Log.Warn("the access log cannot be written; traffic goes on without", "path", l.o.Path, "err", err)
		}
	} else if l.failed != nil {
		l.o.Log.Info("the access log is written again", "path", l.o.Path, "dropped", l.dropped.Load())
	}
	l.failed = err
}

func (l *AccessLog) writeLocked(batch []byte) error {
	if l.file != nil && l.size+int64(len(batch)) > l.o.maxBytes && l.size > 0 {
		if err := l.rotateLocked(); err != nil {
			return err
		}
	}
	if l.file == nil {
		if err := l.openLocked(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(batch)
	l.size += int64(n)
	if err != nil && n > 0 {
		// Half a line would spoil the next one.
		if terr := l.file.Truncate(l.size - int64(n)); terr == nil {
			l.size -= int64(n)
		}
	}
	return err
}

func (l *AccessLog) openLocked() error {
	// 0600: addresses and targets are nobody else's business.
	f, err := os.OpenFile(l.o.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// rotateLocked moves the files on by one; the oldest one goes.
func (l *AccessLog) rotateLocked() error {
	_ = l.file.Close()
	l.file = nil
	for i := accessKeep; i > 0; i-- {
		if err := os.Rename(l.name(i-1), l.name(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("begin the next file: %w", err)
		}
	}
	return nil
}

// name is the path of the file that i others are newer than.
func (l *AccessLog) name(i int) string {
	if i == 0 {
		return l.o.Path
	}
	return filepath.Clean(l.o.Path) + "." + strconv.Itoa(i)
}

// Conditions tells that the log cannot be written.
func (l *AccessLog) Conditions() []Condition {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.failed == nil {
		return nil
	}
	return []Condition{{
		Code: "access_log_failed", Severity: model.SeverityWarning,
		Text: "Requests are served but not logged: the access log cannot be written. Look at the disk and at the permissions of " + l.o.Path + ".",
	}}
}
