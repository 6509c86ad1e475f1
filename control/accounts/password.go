package accounts

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"

	"gatecontrol/model"
)

// Cost of a new hash (argon2id, RFC 9106). GateControl hashes the same way, so
// its backups carry over.
const (
	hashMemory  = 64 << 10 // KiB
	hashTime    = 3
	hashThreads = 1
	saltSize    = 16
	keySize     = 32
)

// Bounds on the cost of a stored hash: a restored file must not be able to ask
// for all memory.
const (
	maxHashMemory  = 256 << 10 // KiB
	maxHashTime    = 16
	maxHashThreads = 16
)

// maxWaitingHashes bounds those who wait for a turn. One hash takes about a
// tenth of a second, so the last one in the queue still gets an answer in time.
const maxWaitingHashes = 32

// hasher hashes passwords, at most one per core at once: each takes 64 MiB and
// a core for itself.
type hasher struct {
	memory  uint32 // KiB of a new hash; hashMemory but in tests
	turns   chan struct{}
	waiting *atomic.Int32
	used    *atomic.Bool // since it was last looked at
}

func newHasher() hasher {
	return hasher{
		memory:  hashMemory,
		turns:   make(chan struct{}, runtime.GOMAXPROCS(0)),
		waiting: new(atomic.Int32),
		used:    new(atomic.Bool),
	}
}

// begin waits for a turn and returns what ends it.
func (h *hasher) begin(ctx context.Context) (end func(), err error) {
	end = func() { <-h.turns }
	select {
	case h.turns <- struct{}{}:
		h.used.Store(true)
		return end, nil
	default:
	}
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > maxWaitingHashes {
		return nil, model.Failure(model.KindUnavailable, "too many sign-ins at once; try again in a moment")
	}
	select {
	case h.turns <- struct{}{}:
		h.used.Store(true)
		return end, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hash returns the PHC string of password with a fresh salt.
func (h *hasher) hash(ctx context.Context, password model.Secret) (string, error) {
	end, err := h.begin(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, hashTime, h.memory, hashThreads, keySize)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, hashTime, hashThreads,
		b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// nobody is the stored hash of an account that does not exist or cannot sign in.
// Checking against it costs what a real check costs, and never succeeds.
const nobody = "!"

// check reports whether password is the one behind the PHC string stored. A
// stored text that is no such string costs the same and never matches.
func (h *hasher) check(ctx context.Context, password model.Secret, stored string) (bool, error) {
	end, err := h.begin(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	p, ok := parsePHC(stored)
	if !ok {
		p = phc{memory: h.memory, time: hashTime, threads: hashThreads, salt: make([]byte, saltSize), key: make([]byte, keySize)}
	}
	key := argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1 && ok, nil
}

type phc struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

func parsePHC(s string) (p phc, ok bool) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return phc{}, false
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); n != 3 || err != nil {
		return phc{}, false
	}
	var errs [2]error
	p.salt, errs[0] = base64.RawStdEncoding.DecodeString(parts[4])
	p.key, errs[1] = base64.RawStdEncoding.DecodeString(parts[5])
	ok = errs == [2]error{} &&
		p.memory >= 8 && p.memory <= maxHashMemory && p.time >= 1 && p.time <= maxHashTime &&
		p.threads >= 1 && p.threads <= maxHashThreads &&
		len(p.salt) >= 8 && len(p.salt) <= 64 && len(p.key) >= 16 && len(p.key) <= 64
	return p, ok
}

// readable are 32 characters that nobody confuses when reading them aloud.
const readable = "abcdefghjkmnpqrstuvwxyz123456789"

// generatePassword returns 125 random bits as five groups of five characters.
func generatePassword() model.Secret {
	random := make([]byte, 25)
	_, _ = rand.Read(random) // never fails
	var b strings.Builder
	for i, r := range random {
		if i > 0 && i%5 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(readable[r%byte(len(readable))])
	}
	return model.Secret(b.String())
}
