package netstack

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/device"
)

// wireguard-go reports every failed send to a peer that has gone; an outsider
// may cause others. So its lines are bounded.
const (
	logInterval = time.Second // one line each
	logBurst    = 10
)

// notHeardYet is in wireguard-go's error about a keepalive for a peer that has
// not joined yet: what every new peer is for a while.
const notHeardYet = "no known endpoint for peer"

// wireguardLogger gives wireguard-go's lines to log. Its errors heal by
// themselves, so they are warnings; its verbose lines are there at debug level
// only. It names peers by an abbreviation of their public key and never prints
// a secret; what it says of configuration text is left out, since that text
// has keys in it.
func wireguardLogger(log *slog.Logger) *device.Logger {
	limit := rate.NewLimiter(rate.Every(logInterval), logBurst)
	var skipped atomic.Int64
	l := &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			for _, arg := range args {
				if _, ok := arg.(*device.IPCError); ok {
					return // the caller of IpcSet has it
				}
			}
			line := fmt.Sprintf(format, args...)
			if strings.Contains(line, notHeardYet) {
				log.Debug("wireguard: " + line)
				return
			}
			if !limit.Allow() {
				skipped.Add(1)
				return
			}
			attrs := []any{}
			if n := skipped.Swap(0); n > 0 {
				attrs = append(attrs, "skipped", n)
			}
			log.Warn("wireguard: "+line, attrs...)
		},
	}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		l.Verbosef = func(format string, args ...any) {
			log.Debug("wireguard: " + fmt.Sprintf(format, args...))
		}
	}
	return l
}

// errnoText names an error number of the configuration protocol.
func errnoText(code int64) string { return "(errno " + strconv.FormatInt(code, 10) + ")" }
