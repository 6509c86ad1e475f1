package wireguard

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The system tells no more than it has slept, which the clocks read the other way
// round bound from above, and less by no more than what runs between them.
func TestSystemAsleep(t *testing.T) {
	closest := time.Hour
	for range 1000 {
		told := systemAsleep()
		var awake, all unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &all) != nil {
			t.Skip("a clock is missing")
		}
		most := time.Duration(all.Nano() - awake.Nano())
		if told > most {
			t.Fatalf("asleep for %s, which is more than %s", told, most)
		}
		closest = min(closest, most-told)
	}
	if closest > time.Millisecond {
		t.Errorf("%s are missing", closest)
	}
}
