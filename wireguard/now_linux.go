package wireguard

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemAsleep is by how much the clock that goes on during suspend is ahead of
// the one that does not. Reading that one second, it is never too much, even if
// something else runs in between.
func systemAsleep() time.Duration {
	var all, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &all) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil {
		return 0
	}
	return time.Duration(all.Nano() - awake.Nano())
}
