package model

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strconv"
)

// Identifiers are positive, assigned by the store in ascending order and never
// used again.
type (
	PeerID        int64
	RouteID       int64
	UserID        int64
	TokenID       int64
	GroupID       int64
	EventID       int64
	CertificateID int64
	WindowID      int64  // among those of one route or peer
	SessionID     string // lower-case hex SHA-256 of the value in the cookie
)

// Revision counts committed changes of intent. Revision n of the store is what
// every plane runs once it has applied n.
type Revision uint64

func (id PeerID) String() string  { return strconv.FormatInt(int64(id), 10) }
func (id RouteID) String() string { return strconv.FormatInt(int64(id), 10) }
func (id GroupID) String() string { return strconv.FormatInt(int64(id), 10) }

// Secret is a text that must not reach a log, an answer or an error. It prints
// as [redacted] in every format verb and in JSON; Reveal returns the text.
type Secret string

const redacted = "[redacted]"

// Reveal returns the text itself.
func (s Secret) Reveal() string                { return string(s) }
func (Secret) String() string                  { return redacted }
func (Secret) GoString() string                { return redacted }
func (Secret) Format(f fmt.State, _ rune)      { _, _ = f.Write([]byte(redacted)) }
func (Secret) LogValue() slog.Value            { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error)    { return []byte(redacted), nil }
func (s *Secret) UnmarshalText(b []byte) error { *s = Secret(b); return nil }

// Sealed is a secret encrypted at rest, in the text form iv:tag:ciphertext in
// hex (store.Sealer). The empty string means that there is no secret.
type Sealed string

// PublicKey is a Curve25519 public key, printed as base64.
type PublicKey [32]byte

// PrivateKey is a Curve25519 private key or a preshared key: 32 secret bytes.
// It prints as [redacted]; Base64 gives the text.
type PrivateKey [32]byte

// NewPrivateKey returns a fresh Curve25519 private key, clamped as RFC 7748
// section 5 asks.
func NewPrivateKey() PrivateKey {
	var k PrivateKey
	_, _ = rand.Read(k[:]) // never fails
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// NewPresharedKey returns 32 random bytes.
func NewPresharedKey() PrivateKey {
	var k PrivateKey
	_, _ = rand.Read(k[:])
	return k
}

// ParsePublicKey reads the 44 base64 characters of a public key. The all-zero
// key, which wireguard-go takes as "none", is refused.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := parseKey(s)
	return PublicKey(b), err
}

// ParsePrivateKey reads the 44 base64 characters of a private or preshared key.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := parseKey(s)
	return PrivateKey(b), err
}

func parseKey(s string) (k [32]byte, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(s) != base64.StdEncoding.EncodedLen(len(k)) || len(b) != len(k) { // the decoder skips line breaks
		return k, fmt.Errorf("not a key: 44 base64 characters are expected")
	}
	copy(k[:], b)
	if subtle.ConstantTimeCompare(k[:], make([]byte, len(k))) == 1 {
		return k, fmt.Errorf("not a key: all bytes are zero")
	}
	return k, nil
}

// Public returns the public key that belongs to k.
func (k PrivateKey) Public() PublicKey {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic(err) // the length is fixed, and X25519 takes any 32 bytes
	}
	return PublicKey(p.PublicKey().Bytes())
}

// IsZero reports whether k holds no key.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }

// Base64 returns the text form, which is as secret as the key.
func (k PrivateKey) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

func (PrivateKey) String() string               { return redacted }
func (PrivateKey) GoString() string             { return redacted }
func (PrivateKey) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (PrivateKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// IsZero reports whether k holds no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

func (k PublicKey) String() string               { return base64.StdEncoding.EncodeToString(k[:]) }
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the base64 form.
func (k *PublicKey) UnmarshalText(b []byte) error {
	p, err := ParsePublicKey(string(b))
	if err == nil {
		*k = p
	}
	return err
}
