package wireguard

import (
	"sync/atomic"
	"time"
)

// maxSkew is how far the time of day may be off before the times that a device
// tells are corrected: less is how exactly both clocks are read.
const maxSkew = time.Second

// timeline is the clock of a device: it goes forward only, whatever becomes of
// the time of day, and includes the time that the system sleeps. Keys get old
// meanwhile, at the peers too. Go's own clock stands still then, and the one
// that does not has to be asked by a call of the system, which is too much for
// each packet. So the device looks four times a second while there is anything
// to be kept, and before each handshake, which is where a session's age begins.
type timeline struct {
	start  time.Time
	wall   func() time.Time     // the time of day
	asleep func() time.Duration // how long the system has slept since it was started
	before time.Duration        // asleep at start
	slept  atomic.Int64         // since then, in ns, as far as it was noticed
	zero   atomic.Int64         // the time of day at the instant 0, Unix time in ns
}

// init starts the clock. Nil is the system's.
func (t *timeline) init(wall func() time.Time, asleep func() time.Duration) {
	if wall == nil {
		wall = time.Now
	}
	if asleep == nil {
		asleep = systemAsleep
	}
	t.start, t.wall, t.asleep, t.before = time.Now().Add(-1), wall, asleep, asleep()
}

// now reads the clock. It is never 0.
func (t *timeline) now() instant { return instant(time.Since(t.start)) + instant(t.slept.Load()) }

// wake adds what the system has slept since the last call, and reads the clock.
func (t *timeline) wake() instant {
	for s := int64(t.asleep() - t.before); ; {
		known := t.slept.Load()
		if s <= known || t.slept.CompareAndSwap(known, s) {
			return t.now()
		}
	}
}

// date returns the time of day at an instant that has passed. If the clock of
// the system has been set since, that is as if it had been right then: what
// happened a minute ago stays a minute ago.
func (t *timeline) date(at instant) time.Time {
	if skew := t.measure() - t.zero.Load(); skew > int64(maxSkew) || skew < -int64(maxSkew) {
		t.wake() // it may be time asleep
		t.zero.Store(t.measure())
	}
	return time.Unix(0, t.zero.Load()+int64(at)).UTC()
}

// measure returns what zero should be.
func (t *timeline) measure() int64 { return t.wall().UnixNano() - int64(t.now()) }
