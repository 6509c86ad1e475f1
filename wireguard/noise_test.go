package wireguard

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash"
	"slices"
	"testing"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

// What follows is section 5.4 of the paper once more, line by line and with
// its names, on HMAC and curve25519 alone. It shares no code with what it checks.

type paperSide struct {
	spriv, spub, peer, q []byte // static keys, preshared key
	epriv, epub          []byte
	c, h                 []byte
}

func paperHash(parts ...[]byte) []byte {
	h := blake2s.Sum256(bytes.Join(parts, nil))
	return h[:]
}

func paperHMAC(key []byte, parts ...[]byte) []byte {
	h := hmac.New(func() hash.Hash { h, _ := blake2s.New256(nil); return h }, key)
	h.Write(bytes.Join(parts, nil))
	return h.Sum(nil)
}

func paperKDF(n int, key, input []byte) (out [][]byte) {
	t0 := paperHMAC(key, input)
	var last []byte
	for i := range n {
		last = paperHMAC(t0, last, []byte{byte(i + 1)})
		out = append(out, last)
	}
	return out
}

func paperDH(t testing.TB, private, public []byte) []byte {
	t.Helper()
	s, err := curve25519.X25519(private, public)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func paperAEAD(key []byte) cipher.AEAD {
	c, _ := chacha20poly1305.New(key)
	return c
}

func newPaperSide(t testing.TB, private, peer, q []byte) *paperSide {
	e := make([]byte, 32)
	_, _ = rand.Read(e)
	return &paperSide{
		spriv: private, spub: paperDH(t, private, curve25519.Basepoint), peer: peer, q: q,
		epriv: e, epub: paperDH(t, e, curve25519.Basepoint),
	}
}

func (p *paperSide) start(responder []byte) {
	p.c = paperHash([]byte("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
	p.h = paperHash(paperHash(p.c, []byte("WireGuard v1 zx2c4 Jason@zx2c4.com")), responder)
}

func (p *paperSide) first(t testing.TB, stamp []byte) (m []byte) {
	p.start(p.peer)
	p.c = paperKDF(1, p.c, p.epub)[0]
	m = append(m, p.epub...)
	p.h = paperHash(p.h, p.epub)
	k := paperKDF(2, p.c, paperDH(t, p.epriv, p.peer))
	p.c = k[0]
	static := paperAEAD(k[1]).Seal(nil, make([]byte, 12), p.spub, p.h)
	p.h = paperHash(p.h, static)
	k = paperKDF(2, p.c, paperDH(t, p.spriv, p.peer))
	p.c = k[0]
	sealed := paperAEAD(k[1]).Seal(nil, make([]byte, 12), stamp, p.h)
	p.h = paperHash(p.h, sealed)
	return append(append(m, static...), sealed...)
}

func (p *paperSide) readFirst(t testing.TB, m []byte) (static, stamp []byte) {
	p.start(p.spub)
	remote := m[:32]
	p.c = paperKDF(1, p.c, remote)[0]
	p.h = paperHash(p.h, remote)
	k := paperKDF(2, p.c, paperDH(t, p.spriv, remote))
	p.c = k[0]
	static, err1 := paperAEAD(k[1]).Open(nil, make([]byte, 12), m[32:80], p.h)
	p.h = paperHash(p.h, m[32:80])
	k = paperKDF(2, p.c, paperDH(t, p.spriv, p.peer))
	p.c = k[0]
	stamp, err2 := paperAEAD(k[1]).Open(nil, make([]byte, 12), m[80:108], p.h)
	p.h = paperHash(p.h, m[80:108])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return static, stamp
}

func (p *paperSide) second(t testing.TB, remote []byte) (m, send, receive []byte) {
	p.c = paperKDF(1, p.c, p.epub)[0]
	p.h = paperHash(p.h, p.epub)
	p.c = paperKDF(1, p.c, paperDH(t, p.epriv, remote))[0]
	p.c = paperKDF(1, p.c, paperDH(t, p.epriv, p.peer))[0]
	k := paperKDF(3, p.c, p.q)
	p.c = k[0]
	p.h = paperHash(p.h, k[1])
	empty := paperAEAD(k[2]).Seal(nil, make([]byte, 12), nil, p.h)
	k = paperKDF(2, p.c, nil)
	return append(slices.Clone(p.epub), empty...), k[1], k[0]
}

func (p *paperSide) readSecond(t testing.TB, m []byte) (send, receive []byte) {
	remote := m[:32]
	p.c = paperKDF(1, p.c, remote)[0]
	p.h = paperHash(p.h, remote)
	p.c = paperKDF(1, p.c, paperDH(t, p.epriv, remote))[0]
	p.c = paperKDF(1, p.c, paperDH(t, p.spriv, remote))[0]
	k := paperKDF(3, p.c, p.q)
	p.c = k[0]
	p.h = paperHash(p.h, k[1])
	if _, err := paperAEAD(k[2]).Open(nil, make([]byte, 12), m[32:48], p.h); err != nil {
		t.Fatal(err)
	}
	k = paperKDF(2, p.c, nil)
	return k[0], k[1]
}

// agree reports whether a cipher is that of a key.
func agree(c cipher.AEAD, key []byte) bool {
	nonce := make([]byte, 12)
	return bytes.Equal(c.Seal(nil, nonce, []byte("x"), nil), paperAEAD(key).Seal(nil, nonce, []byte("x"), nil))
}

// keys are those of a handshake: ours, and those of the other side.
type keys struct {
	own       *ecdh.PrivateKey
	static    []byte // what both static keys share
	peer      model.PublicKey
	psk       model.PrivateKey
	paper     *paperSide
	ownPublic model.PublicKey
}

func newKeys(t testing.TB) *keys {
	a, b := model.NewPrivateKey(), model.NewPrivateKey()
	k := &keys{peer: b.Public(), psk: model.NewPresharedKey(), ownPublic: a.Public()}
	var err error
	if k.own, err = ecdh.X25519().NewPrivateKey(a[:]); err != nil {
		t.Fatal(err)
	}
	if k.static, err = sharedSecret(k.own, k.peer[:]); err != nil {
		t.Fatal(err)
	}
	k.paper = newPaperSide(t, b[:], k.ownPublic[:], k.psk[:])
	return k
}

func TestNoiseAgainstPaper(t *testing.T) {
	stamp := tai64n.Now()
	t.Run("initiator", func(t *testing.T) {
		k := newKeys(t)
		m, i, err := initiate(nil, k.own, k.peer, k.static, stamp)
		if err != nil {
			t.Fatal(err)
		}
		static, at := k.paper.readFirst(t, m)
		if !bytes.Equal(static, k.ownPublic[:]) || !bytes.Equal(at, stamp[:]) {
			t.Fatal("the first message says something else")
		}
		m, theirSend, theirReceive := k.paper.second(t, m[:32])
		send, receive, err := i.finish(k.own, &k.psk, m)
		if err != nil || !agree(send, theirReceive) || !agree(receive, theirSend) {
			t.Fatalf("different keys: %v", err)
		}
	})
	t.Run("responder", func(t *testing.T) {
		k := newKeys(t)
		m := k.paper.first(t, stamp[:])
		peer, i, err := readStatic(k.own, m)
		if err != nil || peer != k.peer {
			t.Fatalf("static key: %v", err)
		}
		at, err := i.readTime(k.static, m)
		if err != nil || at != stamp {
			t.Fatalf("time: %v", err)
		}
		m, send, receive, err := i.respond(nil, k.peer, &k.psk)
		if err != nil {
			t.Fatal(err)
		}
		theirSend, theirReceive := k.paper.readSecond(t, m)
		if !agree(send, theirReceive) || !agree(receive, theirSend) {
			t.Fatal("different keys")
		}
	})
}

// A bit changed anywhere is seen, and spoils nothing.
func TestNoiseForged(t *testing.T) {
	k := newKeys(t)
	first := k.paper.first(t, make([]byte, tai64n.TimestampSize))
	for at := range first {
		m := slices.Clone(first)
		m[at] ^= 0x10
		_, i, err := readStatic(k.own, m)
		if err == nil {
			_, err = i.readTime(k.static, m)
		}
		if err == nil {
			t.Fatalf("a change of byte %d of the first message was not seen", at)
		}
	}
	k = newKeys(t)
	m, i, _ := initiate(nil, k.own, k.peer, k.static, tai64n.Now())
	k.paper.readFirst(t, m)
	second, theirSend, _ := k.paper.second(t, m[:32])
	for at := range second {
		m := slices.Clone(second)
		m[at] ^= 0x10
		if _, _, err := i.finish(k.own, &k.psk, m); err == nil {
			t.Fatalf("a change of byte %d of the second message was not seen", at)
		}
	}
	if _, receive, err := i.finish(k.own, &k.psk, second); err != nil || !agree(receive, theirSend) {
		t.Fatal("forged messages have spoiled the handshake")
	}
}

// lowOrder are the public keys that say nothing (RFC 7748, section 6.1).
var lowOrder = [][]byte{
	make([]byte, keySize),
	append([]byte{1}, make([]byte, keySize-1)...),
	{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	},
}

func TestLowOrderKeys(t *testing.T) {
	for _, low := range lowOrder {
		k := newKeys(t)
		if _, _, err := initiate(nil, k.own, model.PublicKey(low), k.static, tai64n.Now()); !errors.Is(err, errLowOrder) {
			t.Fatalf("the peer's key %x: %v", low, err)
		}
		m := append(slices.Clone(low), make([]byte, 76)...)
		if _, _, err := readStatic(k.own, m); !errors.Is(err, errLowOrder) {
			t.Fatalf("the ephemeral key %x in the first message: %v", low, err)
		}
		_, i, _ := initiate(nil, k.own, k.peer, k.static, tai64n.Now())
		if _, _, err := i.finish(k.own, &k.psk, append(slices.Clone(low), make([]byte, 16)...)); !errors.Is(err, errLowOrder) {
			t.Fatalf("the ephemeral key %x in the second message: %v", low, err)
		}
	}
}

func FuzzNoise(f *testing.F) {
	k := newKeys(f)
	f.Add(k.paper.first(f, make([]byte, tai64n.TimestampSize)))
	for _, low := range lowOrder {
		f.Add(low)
	}
	f.Add(bytes.Repeat([]byte{0xff}, initiationSize))
	_, pending, _ := initiate(nil, k.own, k.peer, k.static, tai64n.Now())
	f.Fuzz(func(t *testing.T, data []byte) {
		var m [initiationSize - initiationNoise - macsSize]byte
		copy(m[:], data)
		peer, i, err := readStatic(k.own, m[:])
		if err == nil {
			_, err = i.readTime(k.static, m[:])
		}
		if err == nil && (peer != k.peer || len(data) < len(m)) {
			t.Fatalf("a first message of nobody was accepted")
		}
		if _, _, err := pending.finish(k.own, &k.psk, m[:]); err == nil {
			t.Fatal("a second message of nobody was accepted")
		}
	})
}

// The fields of a message are where the paper has them.
func TestMessageLayout(t *testing.T) {
	c := newCouple(t)
	first := c.initiation(before)
	second := c.answer(first, before)
	if len(first) != 148 || len(second) != 92 || binary.LittleEndian.Uint32(first) != 1 || binary.LittleEndian.Uint32(second) != 2 ||
		receiver(second) != sender(first) {
		t.Fatal("handshake messages")
	}
	if !bytes.Equal(mac1(c.b.key.Public(), first), first[116:132]) || !bytes.Equal(mac1(c.a.key.Public(), second), second[60:76]) {
		t.Fatal("mac1")
	}
	if zero := make([]byte, 16); !bytes.Equal(first[132:], zero) || !bytes.Equal(second[76:], zero) {
		t.Fatal("mac2 without a cookie")
	}
	if _, ok := c.toB.established(second, before); !ok {
		t.Fatal("no session")
	}
	for size, want := range map[int]int{0: 32, 1: 48, 16: 48, 17: 64, 1419: 1452, 1420: 1452, 1408: 1440, 1409: 1452} {
		if m := c.message(string(make([]byte, size))); len(m) != want || binary.LittleEndian.Uint32(m) != 4 {
			t.Fatalf("%d bytes are a message of %d", size, len(m))
		}
	}
}

// mac1 is that of a handshake message to somebody (paper, section 5.4.4).
func mac1(to model.PublicKey, m []byte) []byte {
	mac, _ := blake2s.New128(paperHash([]byte("mac1----"), to[:]))
	mac.Write(m[:len(m)-32])
	return mac.Sum(nil)
}
