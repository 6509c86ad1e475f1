package app

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"gatecontrol/model"
	"gatecontrol/proxy"
	"gatecontrol/store"
)

// Names of the server's own secrets in the store.
const (
	secretWG = "wireguard"
	secretCA = "authority"
)

// caFile is the certificate of our authority, for people to trust.
const caFile = "ca.pem"

// serverKey returns the WireGuard key of this server: the one that the settings
// bring, the stored one, or a fresh one. What it returns is in the store.
func serverKey(ctx context.Context, db *store.DB, brought model.PrivateKey) (model.PrivateKey, error) {
	var key model.PrivateKey
	err := db.Update(ctx, func(tx *store.Tx) error {
		stored, err := openSecret(db, tx, secretWG)
		if err != nil {
			return err
		}
		if len(stored) > 0 {
			if key, err = model.ParsePrivateKey(string(stored)); err != nil {
				return err
			}
		}
		switch {
		case !brought.IsZero() && brought != key:
			key = brought
		case key.IsZero():
			key = model.NewPrivateKey()
		default:
			return nil
		}
		return putSecret(db, tx, secretWG, []byte(key.Base64()))
	})
	return key, err
}

// resetKey is what QUIC tells clients with that this server has forgotten their
// connections (RFC 9000, section 10.3): it has to be the same after a restart,
// and is of no use for anything else.
func resetKey(server model.PrivateKey) (key [32]byte, err error) {
	b, err := hkdf.Key(sha256.New, server[:], nil, "gatecontrol QUIC stateless reset", len(key))
	return [32]byte(b), err
}

// stickyKey signs the cookies that keep a client at one backend: the same after a
// restart.
func stickyKey(server model.PrivateKey) ([]byte, error) {
	return hkdf.Key(sha256.New, server[:], nil, "gatecontrol sticky cookies", sha256.Size)
}

// authorityPEM is how the key of our certificate authority is kept.
type authorityPEM struct {
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// loadAuthority returns our certificate authority, made at the first start, and
// leaves its certificate beside the store.
func loadAuthority(ctx context.Context, db *store.DB, dir string, log *slog.Logger) (*proxy.Authority, error) {
	var kept authorityPEM
	err := db.Update(ctx, func(tx *store.Tx) error {
		raw, err := openSecret(db, tx, secretCA)
		if err != nil {
			return err
		}
		if len(raw) > 0 {
			return json.Unmarshal(raw, &kept)
		}
		if kept.Cert, kept.Key, err = proxy.NewAuthority(); err != nil {
			return err
		}
		if raw, err = json.Marshal(kept); err != nil {
			return err
		}
		return putSecret(db, tx, secretCA, raw)
	})
	if err != nil {
		return nil, err
	}
	ca, err := proxy.LoadAuthority(kept.Cert, kept.Key)
	if err != nil {
		return nil, err
	}
	leaveCertificate(filepath.Join(dir, caFile), kept.Cert, log)
	return ca, nil
}

// leaveCertificate keeps a copy of the certificate for people. It is in the
// store as well, so a disk that is full must not stop the start.
func leaveCertificate(path string, cert []byte, log *slog.Logger) {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, cert) {
		return
	}
	err := store.WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(cert)
		return err
	})
	if err != nil {
		log.Warn("the certificate of our authority could not be written for people to trust", "path", path, "err", err)
	}
}

func openSecret(db *store.DB, tx *store.Tx, name string) ([]byte, error) {
	blob, err := store.Secrets.Get(tx, name)
	if err != nil || blob == nil {
		return nil, err
	}
	return db.Sealer().Open(blob.Sealed)
}

func putSecret(db *store.DB, tx *store.Tx, name string, plain []byte) error {
	return store.Secrets.Put(tx, &store.SealedBlob{Name: name, Sealed: db.Sealer().Seal(plain)})
}
