package app

import (
	"log/slog"
	"os"
)

// silent is above every level that is logged.
const silent = slog.Level(100)

// NewLogger returns a logger to standard error. The level is one of
// GateControl's names; trace counts as debug, fatal as error.
func NewLogger(level string) *slog.Logger {
	l := map[string]slog.Level{
		"silent": silent, "fatal": slog.LevelError, "error": slog.LevelError, "warn": slog.LevelWarn,
		"info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": slog.LevelDebug,
	}[level]
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
}
