package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"gatecontrol/model"
)

// KeyFile holds the key that seals secrets, where none is configured.
const KeyFile = ".encryption_key"

// Sizes of AES-256-GCM as it is used here.
const (
	nonceSize = 12
	tagSize   = 16
)

// Sealer encrypts secrets at rest with AES-256-GCM, a fresh nonce each, no
// additional data. The text form is nonce:tag:ciphertext in lower-case hex,
// which backups share with GateControl. It is safe for use by many goroutines.
type Sealer struct{ aead cipher.AEAD }

// NewSealer takes a key of 64 hex characters.
func NewSealer(hexKey model.Secret) (*Sealer, error) {
	key, err := hex.DecodeString(strings.TrimSpace(hexKey.Reveal()))
	if err != nil || len(key) != 32 {
		return nil, model.Invalid("GC_ENCRYPTION_KEY", "must be 64 hex characters")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead}, nil
}

// LoadSealer reads the key file in dir, or writes one with a fresh key if there
// is none and no store that would need the lost one.
func LoadSealer(dir string, log *slog.Logger) (*Sealer, error) {
	path := filepath.Join(dir, KeyFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(filepath.Join(dir, IntentFile)); serr == nil {
			return nil, model.Failure(model.KindUnavailable, "%s is missing, and the secrets in %s cannot be read without it; bring the file back or set GC_ENCRYPTION_KEY", path, IntentFile)
		}
		if err := makeDir(dir, log); err != nil {
			return nil, err
		}
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		text := hex.EncodeToString(key)
		if err := WriteFile(path, func(w io.Writer) error { _, err := io.WriteString(w, text+"\n"); return err }); err != nil {
			return nil, unavailable(err, "the key file %s cannot be written", path)
		}
		return NewSealer(model.Secret(text))
	}
	if err != nil {
		return nil, unavailable(err, "the key file %s cannot be read; give user id %d the right to, or set GC_ENCRYPTION_KEY", path, os.Getuid())
	}
	warnIfOpen(path, 0o600, log)
	s, err := NewSealer(model.Secret(raw))
	if err != nil {
		return nil, model.Failure(model.KindUnavailable, "the key file %s does not hold 64 hex characters; bring the right file back or set GC_ENCRYPTION_KEY", path)
	}
	return s, nil
}

// Seal encrypts a secret. The empty secret stays empty.
func (s *Sealer) Seal(plain []byte) model.Sealed {
	if len(plain) == 0 {
		return ""
	}
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce)                    // never fails
	out := s.aead.Seal(nil, nonce, plain, nil) // ciphertext, then tag
	text, tag := out[:len(plain)], out[len(plain):]
	return model.Sealed(hex.EncodeToString(nonce) + ":" + hex.EncodeToString(tag) + ":" + hex.EncodeToString(text))
}

// Open decrypts what Seal made. The empty text is the empty secret.
func (s *Sealer) Open(sealed model.Sealed) ([]byte, error) {
	if sealed == "" {
		return nil, nil
	}
	parts := strings.Split(string(sealed), ":")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a sealed secret has the wrong form")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = hex.DecodeString(p); err != nil {
			return nil, fmt.Errorf("a sealed secret has the wrong form")
		}
	}
	nonce, tag, text := raw[0], raw[1], raw[2]
	if len(nonce) != nonceSize || len(tag) != tagSize || len(text) == 0 {
		return nil, fmt.Errorf("a sealed secret has the wrong form")
	}
	plain, err := s.aead.Open(nil, nonce, bytes.Join([][]byte{text, tag}, nil), nil)
	if err != nil {
		return nil, fmt.Errorf("a secret was sealed with another key")
	}
	return plain, nil
}

// SealKey and OpenKey seal a WireGuard key in its base64 form, as backups carry
// it. The zero key is the empty text.
func (s *Sealer) SealKey(k model.PrivateKey) model.Sealed {
	if k.IsZero() {
		return ""
	}
	return s.Seal([]byte(k.Base64()))
}

// OpenKey is the inverse of SealKey.
func (s *Sealer) OpenKey(sealed model.Sealed) (model.PrivateKey, error) {
	plain, err := s.Open(sealed)
	if err != nil || len(plain) == 0 {
		return model.PrivateKey{}, err
	}
	return model.ParsePrivateKey(string(plain))
}

// sealCheck is a known text, sealed once, that tells a wrong key at start.
const sealCheck = "gatecontrol"

// checkSealer refuses a key that is not the one of this store. It writes nothing.
func (db *DB) checkSealer() error {
	return db.View(func(tx *Tx) error {
		if tx.b.Bucket([]byte(Secrets.name)) == nil {
			return nil // a new file, or one that checkBuckets refuses
		}
		check, err := Secrets.Get(tx, "check")
		if err != nil || check == nil {
			return err
		}
		if plain, err := db.sealer.Open(check.Sealed); err != nil || string(plain) != sealCheck {
			return model.Failure(model.KindUnavailable, "the key in %s or GC_ENCRYPTION_KEY is not the one that sealed the secrets of this store; bring the right one back", KeyFile)
		}
		return nil
	})
}

// markSealer leaves in a new store what checkSealer looks for.
func (db *DB) markSealer() error {
	return db.Update(context.Background(), func(tx *Tx) error {
		if check, err := Secrets.Get(tx, "check"); err != nil || check != nil {
			return err
		}
		return Secrets.Put(tx, &SealedBlob{Name: "check", Sealed: db.sealer.Seal([]byte(sealCheck))})
	})
}
