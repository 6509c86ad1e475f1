package accounts

import (
	"strings"
	"sync"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// An account takes maxAttempts failed sign-ins within lockWindow; then it is
// locked until the oldest of them is that old.
const (
	maxAttempts = 5
	lockWindow  = 15 * time.Minute
)

// maxUnknown bounds the names that are counted although no account has them.
// Counting them keeps an attacker from telling them from real ones; forgetting
// one harms nobody.
const maxUnknown = 4096

// subject is what failures count against: an account, a browser that signed in
// to it before, or a name that no account has.
type subject struct {
	key   string
	known bool // kept in the store
}

func accountSubject(u *model.User) subject {
	return subject{"user:" + userKey(u.ID), true}
}

// deviceSubject keeps strangers from locking an owner out: a browser that signed
// in before is counted by itself.
func deviceSubject(device model.Secret) subject {
	return subject{"device:" + hashHex(device), true}
}

// nameSubject hashes the name: people type passwords where names belong.
func nameSubject(name string) subject {
	return subject{"name:" + hashHex(model.Secret(strings.ToLower(name))), false}
}

// confirmSubject counts wrong current passwords of a change, so that a stolen
// session is no way to guess.
func confirmSubject(u *model.User) subject {
	return subject{"confirm:" + userKey(u.ID), true}
}

// lockout counts failed sign-ins. The counts of known subjects survive a
// restart; flush writes them.
type lockout struct {
	db *store.DB

	mu      sync.Mutex
	entries map[string]*attempts
	unknown int // entries that are not known
}

type attempts struct {
	failed  []time.Time // oldest first
	pending int         // being checked right now; they count as failed
	known   bool
	dirty   bool
}

func newLockout(db *store.DB) lockout {
	return lockout{db: db, entries: make(map[string]*attempts)}
}

// begin takes one of the attempts that s has left; false means it is locked.
// Of many at once no more than maxAttempts get through. Exactly one of settle
// and cancel follows a true.
func (l *lockout) begin(s subject, now time.Time) (bool, error) {
	stored, err := l.stored(s)
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entries[s.key]
	if a == nil {
		if !s.known {
			l.makeRoomLocked(now)
			l.unknown++
		}
		a = &attempts{failed: stored, known: s.known}
		l.entries[s.key] = a
	}
	a.prune(now)
	if len(a.failed)+a.pending >= maxAttempts {
		return false, nil
	}
	a.pending++
	return true, nil
}

// settle ends an attempt. It reports whether this failure locked the subject.
func (l *lockout) settle(s subject, ok bool, now time.Time) (locked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entries[s.key]
	a.pending--
	if ok {
		a.dirty = a.dirty || len(a.failed) > 0
		a.failed = nil
		return false
	}
	a.failed = append(a.failed, now)
	a.dirty = true
	return len(a.failed) == maxAttempts
}

// cancel gives an attempt back that was never decided.
func (l *lockout) cancel(s subject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[s.key].pending--
}

// unlock forgets the failures of s. It is part of tx; forget follows the commit.
func (l *lockout) unlock(tx *store.Tx, s subject) error {
	_, err := store.Lockouts.Delete(tx, s.key)
	return err
}

func (l *lockout) forget(s subject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.entries[s.key]; a != nil {
		a.failed, a.dirty = nil, false
	}
}

// stored returns the failures of a known subject that is not in memory.
func (l *lockout) stored(s subject) (failed []time.Time, err error) {
	l.mu.Lock()
	_, loaded := l.entries[s.key]
	l.mu.Unlock()
	if loaded || !s.known {
		return nil, nil
	}
	err = l.db.View(func(tx *store.Tx) error {
		f, err := store.Lockouts.Get(tx, s.key)
		if f != nil {
			failed = f.At
		}
		return err
	})
	return failed, err
}

// dirty returns what must be written. If writing fails, failed(list) puts it back.
func (l *lockout) dirty() []store.LoginFailures {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []store.LoginFailures
	for key, a := range l.entries {
		if a.known && a.dirty {
			a.dirty = false
			list = append(list, store.LoginFailures{Key: key, At: append([]time.Time(nil), a.failed...)})
		}
	}
	return list
}

func (l *lockout) unwritten(list []store.LoginFailures) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range list {
		if a := l.entries[f.Key]; a != nil {
			a.dirty = true
		}
	}
}

// write stores list as part of tx.
func (l *lockout) write(tx *store.Tx, list []store.LoginFailures) error {
	for i := range list {
		if len(list[i].At) == 0 {
			if _, err := store.Lockouts.Delete(tx, list[i].Key); err != nil {
				return err
			}
		} else if err := store.Lockouts.Put(tx, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// purge forgets failures that count no more, as part of tx and in memory.
func (l *lockout) purge(tx *store.Tx, now time.Time) error {
	var spent []string
	for f, err := range store.Lockouts.All(tx) {
		if err != nil {
			return err
		}
		if n := len(f.At); n == 0 || now.Sub(f.At[n-1]) >= lockWindow {
			spent = append(spent, f.Key)
		}
	}
	for _, key := range spent {
		if _, err := store.Lockouts.Delete(tx, key); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked(now)
	return nil
}

// clear forgets what the store has too.
func (l *lockout) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, a := range l.entries {
		if a.known && a.pending == 0 && !a.dirty {
			delete(l.entries, key)
		}
	}
}

func (l *lockout) sweepLocked(now time.Time) {
	for key, a := range l.entries {
		a.prune(now)
		if len(a.failed) == 0 && a.pending == 0 && !(a.known && a.dirty) {
			l.removeLocked(key, a)
		}
	}
}

// makeRoomLocked forgets an unknown name if there are too many: one whose
// failures are spent, else any.
func (l *lockout) makeRoomLocked(now time.Time) {
	if l.unknown < maxUnknown {
		return
	}
	l.sweepLocked(now)
	for key, a := range l.entries {
		if l.unknown < maxUnknown {
			return
		}
		if !a.known && a.pending == 0 {
			l.removeLocked(key, a)
		}
	}
}

func (l *lockout) removeLocked(key string, a *attempts) {
	delete(l.entries, key)
	if !a.known {
		l.unknown--
	}
}

func (a *attempts) prune(now time.Time) {
	for len(a.failed) > 0 && now.Sub(a.failed[0]) >= lockWindow {
		a.failed = a.failed[1:]
	}
}
