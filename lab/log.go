package lab

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
)

// Logger returns a logger that writes into the log of t.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(&logWriter{t: t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// logWriter writes lines into the log of a test, until the test has ended.
type logWriter struct {
	t testing.TB

	mu    sync.Mutex
	ended bool
	part  []byte
	once  sync.Once
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.once.Do(func() {
		w.t.Cleanup(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ended = true
		})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, b...)
	for {
		i := bytes.IndexByte(w.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		if !w.ended {
			w.t.Logf("%s", w.part[:i])
		}
		w.part = w.part[i+1:]
	}
}
