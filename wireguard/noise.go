package wireguard

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"errors"
	"hash"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

// The handshake is Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (WireGuard paper,
// section 5.4; Noise protocol framework, revision 34). The code here is pure: it
// touches no peer and no socket. Every step works on a copy of the state before
// it, so that a forged message cannot spoil a handshake under way.

// keySize is the size of keys, hashes and shared secrets, in bytes.
const keySize = 32

// tagSize is the size of an authentication tag, in bytes.
const tagSize = chacha20poly1305.Overhead

// The names that both sides hash first.
const (
	noiseName     = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	noisePrologue = "WireGuard v1 zx2c4 Jason@zx2c4.com"
)

var (
	errForged   = errors.New("the message is not authentic")
	errLowOrder = errors.New("the public key is of low order")

	zeroNonce    [chacha20poly1305.NonceSize]byte
	initialState = newNoiseState()
)

// noiseState is what both sides of a handshake agree on so far.
type noiseState struct {
	hash  [keySize]byte // of everything sent
	chain [keySize]byte // of everything shared
}

func newNoiseState() noiseState {
	s := noiseState{chain: blake2s.Sum256([]byte(noiseName))}
	s.hash = s.chain
	s.mixHash([]byte(noisePrologue))
	return s
}

func newBlake2s() hash.Hash {
	h, err := blake2s.New256(nil)
	if err != nil {
		panic(err) // only a key can be wrong, and there is none
	}
	return h
}

func (s *noiseState) mixHash(data []byte) {
	h := newBlake2s()
	h.Write(s.hash[:])
	h.Write(data)
	h.Sum(s.hash[:0])
}

// derive replaces the chaining key and returns n further keys.
func (s *noiseState) derive(input []byte, n int) []byte {
	keys, err := hkdf.Key(newBlake2s, input, s.chain[:], "", keySize*(1+n))
	if err != nil {
		panic(err) // only a length can be wrong
	}
	copy(s.chain[:], keys)
	return keys[keySize:]
}

// mixKey adds a shared secret and returns the cipher of the next field.
func (s *noiseState) mixKey(input []byte) cipher.AEAD {
	return newCipher(s.derive(input, 1))
}

// mixPresharedKey adds the preshared key, all zeros for none.
func (s *noiseState) mixPresharedKey(psk *model.PrivateKey) cipher.AEAD {
	keys := s.derive(psk[:], 2)
	s.mixHash(keys[:keySize])
	return newCipher(keys[keySize:])
}

// seal appends the encrypted field to b.
func (s *noiseState) seal(c cipher.AEAD, b, field []byte) []byte {
	start := len(b)
	b = c.Seal(b, zeroNonce[:], field, s.hash[:])
	s.mixHash(b[start:])
	return b
}

// open decrypts field into to.
func (s *noiseState) open(c cipher.AEAD, to, field []byte) error {
	if _, err := c.Open(to[:0], zeroNonce[:], field, s.hash[:]); err != nil {
		return errForged
	}
	s.mixHash(field)
	return nil
}

func newCipher(key []byte) cipher.AEAD {
	c, err := chacha20poly1305.New(key)
	if err != nil {
		panic(err) // only the length can be wrong
	}
	return c
}

// sharedSecret is the result of X25519 (RFC 7748), which is refused if it says
// nothing about the other side's key.
func sharedSecret(private *ecdh.PrivateKey, public []byte) ([]byte, error) {
	p, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	secret, err := private.ECDH(p)
	if err != nil {
		return nil, errLowOrder
	}
	return secret, nil
}

func newEphemeral() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system's random numbers never fail
	}
	return k
}

// initiation is the state of a side that has sent the first message, or read it.
type initiation struct {
	noiseState
	ephemeral *ecdh.PrivateKey // the initiator's, nil for the responder
	remote    []byte           // the initiator's ephemeral public key, nil for the initiator
}

// initiate writes the encrypted part of the first message behind b: ephemeral
// key, static key, time. static is the secret that both static keys share.
func initiate(b []byte, own *ecdh.PrivateKey, peer model.PublicKey, static []byte, now tai64n.Timestamp) ([]byte, *initiation, error) {
	i := &initiation{noiseState: initialState, ephemeral: newEphemeral()}
	i.mixHash(peer[:])
	public := i.ephemeral.PublicKey().Bytes()
	b = append(b, public...)
	i.mixHash(public)
	i.derive(public, 0)
	secret, err := sharedSecret(i.ephemeral, peer[:])
	if err != nil {
		return nil, nil, err
	}
	b = i.seal(i.mixKey(secret), b, own.PublicKey().Bytes())
	b = i.seal(i.mixKey(static), b, now[:])
	return b, i, nil
}

// readStatic reads ephemeral and static key of the first message.
func readStatic(own *ecdh.PrivateKey, m []byte) (peer model.PublicKey, i *initiation, err error) {
	i = &initiation{noiseState: initialState, remote: m[:keySize]}
	i.mixHash(own.PublicKey().Bytes())
	i.mixHash(i.remote)
	i.derive(i.remote, 0)
	secret, err := sharedSecret(own, i.remote)
	if err != nil {
		return peer, nil, err
	}
	return peer, i, i.open(i.mixKey(secret), peer[:], m[keySize:2*keySize+tagSize])
}

// readTime reads what follows the static key. Only who holds that key can have
// written it.
func (i *initiation) readTime(static, m []byte) (at tai64n.Timestamp, err error) {
	err = i.open(i.mixKey(static), at[:], m[2*keySize+tagSize:][:tai64n.TimestampSize+tagSize])
	return at, err
}

// respond writes the encrypted part of the second message behind b, and returns
// the ciphers of the session.
func (i *initiation) respond(b []byte, peer model.PublicKey, psk *model.PrivateKey) (_ []byte, send, receive cipher.AEAD, err error) {
	ephemeral := newEphemeral()
	public := ephemeral.PublicKey().Bytes()
	b = append(b, public...)
	i.mixHash(public)
	i.derive(public, 0)
	for _, remote := range [][]byte{i.remote, peer[:]} {
		secret, err := sharedSecret(ephemeral, remote)
		if err != nil {
			return nil, nil, nil, err
		}
		i.derive(secret, 0)
	}
	b = i.seal(i.mixPresharedKey(psk), b, nil)
	receive, send = i.ciphers()
	return b, send, receive, nil
}

// finish reads the second message and returns the ciphers of the session. The
// state stays as it was.
func (i initiation) finish(own *ecdh.PrivateKey, psk *model.PrivateKey, m []byte) (send, receive cipher.AEAD, err error) {
	remote := m[:keySize]
	i.mixHash(remote)
	i.derive(remote, 0)
	for _, private := range []*ecdh.PrivateKey{i.ephemeral, own} {
		secret, err := sharedSecret(private, remote)
		if err != nil {
			return nil, nil, err
		}
		i.derive(secret, 0)
	}
	if err := i.open(i.mixPresharedKey(psk), nil, m[keySize:keySize+tagSize]); err != nil {
		return nil, nil, err
	}
	send, receive = i.ciphers()
	return send, receive, nil
}

// ciphers ends the handshake: the one with which the initiator sends, and the
// one with which it receives.
func (i *initiation) ciphers() (first, second cipher.AEAD) {
	keys, err := hkdf.Key(newBlake2s, nil, i.chain[:], "", 2*keySize)
	if err != nil {
		panic(err) // only a length can be wrong
	}
	return newCipher(keys[:keySize]), newCipher(keys[keySize:])
}
