package accounts

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// A device cookie marks a browser that signed in to an account before. It opens
// nothing: it only gives the browser a failure count of its own, so that
// strangers who guess cannot lock the owner out. It has the form nonce.mac and
// ends with the password that it was made under.

// deviceKeyName is the name of the signing key among the server's secrets.
const deviceKeyName = "device-cookie-key"

// newDevice returns a fresh device cookie for u, as part of tx.
func (s *Service) newDevice(tx *store.Tx, u *model.User) (model.Secret, error) {
	key, err := s.deviceKey(tx)
	if err != nil {
		return "", err
	}
	if key == nil {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // never fails
		if err := store.Secrets.Put(tx, &store.SealedBlob{Name: deviceKeyName, Sealed: s.db.Sealer().Seal(key)}); err != nil {
			return "", err
		}
	}
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce)
	text := base64.RawURLEncoding.EncodeToString(nonce)
	return model.Secret(text + "." + deviceMAC(key, text, u)), nil
}

// knowsDevice reports whether device was made for u. What cannot be checked is
// not known.
func (s *Service) knowsDevice(u *model.User, device model.Secret) bool {
	nonce, mac, ok := strings.Cut(device.Reveal(), ".")
	if !ok {
		return false
	}
	var key []byte
	err := s.db.View(func(tx *store.Tx) (err error) {
		key, err = s.deviceKey(tx)
		return err
	})
	return err == nil && key != nil && hmac.Equal([]byte(mac), []byte(deviceMAC(key, nonce, u)))
}

func (s *Service) deviceKey(tx *store.Tx) ([]byte, error) {
	blob, err := store.Secrets.Get(tx, deviceKeyName)
	if err != nil || blob == nil {
		return nil, err
	}
	return s.db.Sealer().Open(blob.Sealed)
}

func deviceMAC(key []byte, nonce string, u *model.User) string {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(nonce + "\n" + userKey(u.ID) + "\n" + u.PasswordHash))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
