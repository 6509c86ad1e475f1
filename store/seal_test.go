package store

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gatecontrol/model"
)

var quiet = slog.New(slog.DiscardHandler)

func TestSealRoundTrip(t *testing.T) {
	s := testSealer(t, "5a")
	for _, plain := range []string{"", "x", "a private key", strings.Repeat("ü", 10_000), "\x00\xff"} {
		sealed := s.Seal([]byte(plain))
		got, err := s.Open(sealed)
		if err != nil || string(got) != plain {
			t.Errorf("%d bytes came back as %d: %v", len(plain), len(got), err)
		}
		if plain == "" {
			if sealed != "" {
				t.Error("the empty secret is not empty")
			}
			continue
		}
		if want := fmt.Sprintf("^[0-9a-f]{24}:[0-9a-f]{32}:[0-9a-f]{%d}$", 2*len(plain)); len(plain) < 400 && !regexp.MustCompile(want).MatchString(string(sealed)) {
			t.Errorf("form %s", sealed)
		}
		if again := s.Seal([]byte(plain)); again == sealed {
			t.Error("sealed twice with one nonce")
		}
		if _, err := testSealer(t, "5b").Open(sealed); err == nil {
			t.Error("another key opens it")
		}
	}
}

// Vectors of AES-256-GCM from the submission of GCM to NIST, test cases 14 and 15
// without its last bytes being additional data.
func TestSealVectors(t *testing.T) {
	for _, c := range []struct{ key, sealed, plain string }{
		{
			strings.Repeat("00", 32),
			"000000000000000000000000:d0d1c8a799996bf0265b98b5d48ab919:cea7403d4d606b6e074ec5d3baf39d18",
			strings.Repeat("00", 16),
		},
		{
			"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
			"cafebabefacedbaddecaf888:b094dac5d93471bdec1a502270e3cc6c:522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
			"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
		},
	} {
		s, err := NewSealer(model.Secret(c.key))
		if err != nil {
			t.Fatal(err)
		}
		for _, sealed := range []string{c.sealed, strings.ToUpper(c.sealed)} {
			if got, err := s.Open(model.Sealed(sealed)); err != nil || hex.EncodeToString(got) != c.plain {
				t.Errorf("%x, %v", got, err)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	s := testSealer(t, "5a")
	good := string(s.Seal([]byte("secret")))
	parts := strings.Split(good, ":")
	flip := func(i int) string {
		p := append([]string(nil), parts...)
		raw, _ := hex.DecodeString(p[i])
		raw[0] ^= 1
		p[i] = hex.EncodeToString(raw)
		return strings.Join(p, ":")
	}
	for name, sealed := range map[string]string{
		"another nonce": flip(0), "another tag": flip(1), "another text": flip(2),
		"two parts": parts[0] + ":" + parts[1], "four parts": good + ":00", "no hex": "x" + good[1:], "odd hex": good + "0",
		"short nonce": good[2:], "no text": parts[0] + ":" + parts[1] + ":", "short tag": parts[0] + ":" + parts[1][2:] + ":" + parts[2],
		"the secret itself": "secret", "colons": "::",
	} {
		if got, err := s.Open(model.Sealed(sealed)); err == nil || len(got) != 0 {
			t.Errorf("%s opens as %q", name, got)
		} else if strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error repeats what it was given", name)
		}
	}
}

func TestSealKey(t *testing.T) {
	s := testSealer(t, "5a")
	k := model.NewPrivateKey()
	if got, err := s.OpenKey(s.SealKey(k)); err != nil || got != k {
		t.Errorf("another key came back: %v", err)
	}
	if plain, err := s.Open(s.SealKey(k)); err != nil || string(plain) != k.Base64() {
		t.Error("a sealed key is not sealed in its base64 form")
	}
	if sealed := s.SealKey(model.PrivateKey{}); sealed != "" {
		t.Errorf("no key is sealed as %s", sealed)
	}
	if got, err := s.OpenKey(""); err != nil || !got.IsZero() {
		t.Errorf("nothing is opened as a key: %v", err)
	}
	if _, err := s.OpenKey(s.Seal([]byte("no key"))); err == nil {
		t.Error("a text is opened as a key")
	}
}

func TestNewSealer(t *testing.T) {
	for _, key := range []string{"", "5a", strings.Repeat("5a", 31), strings.Repeat("5a", 33), strings.Repeat("zz", 32)} {
		if _, err := NewSealer(model.Secret(key)); model.KindOf(err) != model.KindInvalid {
			t.Errorf("a key of %d characters: %v", len(key), err)
		} else if key != "" && strings.Contains(err.Error(), key) {
			t.Error("the error repeats the key")
		}
	}
	if _, err := NewSealer(model.Secret(" " + strings.Repeat("5A", 32) + "\n")); err != nil {
		t.Error(err)
	}
}

func TestLoadSealer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := LoadSealer(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadSealer(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Open(first.Seal([]byte("x"))); err != nil || string(got) != "x" {
		t.Errorf("the second start has another key: %v", err)
	}
	other, err := LoadSealer(t.TempDir(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(first.Seal([]byte("x"))); err == nil {
		t.Error("two directories share a key")
	}
}

func TestLoadSealerRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, key string)
	}{
		{"missing", func(t *testing.T, key string) {
			if err := os.Remove(key); err != nil {
				t.Fatal(err)
			}
		}},
		{"empty", func(t *testing.T, key string) { write(t, key, "") }},
		{"cut", func(t *testing.T, key string) { write(t, key, strings.Repeat("5a", 31)) }},
		{"no hex", func(t *testing.T, key string) { write(t, key, strings.Repeat("zz", 32)) }},
		{"a directory", func(t *testing.T, key string) {
			if err := os.Remove(key); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(key, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := usedDir(t)
			key := filepath.Join(dir, KeyFile)
			write(t, key, strings.Repeat("5a", 32))
			c.change(t, key)
			before := contents(t, filepath.Join(dir, IntentFile))
			_, err := LoadSealer(dir, quiet)
			wantUnavailable(t, err, KeyFile)
			if contents(t, filepath.Join(dir, IntentFile)) != before {
				t.Error("the store was written to")
			}
			if fi, err := os.Stat(key); c.name == "missing" && err == nil {
				t.Errorf("a key was written over the lost one: %v", fi.Mode())
			}
		})
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWrongKeyIsRefused(t *testing.T) {
	for name, dir := range map[string]string{"a store in use": usedDir(t), "one of an older schema": fixtureDir(t, 1)} {
		t.Run(name, func(t *testing.T) {
			before := otherFiles(t, dir, "")
			o := testOptions(t, dir)
			o.Sealer = testSealer(t, "5b")
			_, err := Open(o)
			wantUnavailable(t, err, KeyFile)
			if otherFiles(t, dir, "") != before {
				t.Error("something was written")
			}
			open(t, dir) // and nothing is locked
		})
	}
}

func FuzzSealer(f *testing.F) {
	f.Add([]byte("secret"), "000000000000000000000000:d0d1c8a799996bf0265b98b5d48ab919:cea7")
	f.Add([]byte{}, "::")
	s := testSealer(f, "5a")
	f.Fuzz(func(t *testing.T, plain []byte, sealed string) {
		if got, err := s.Open(s.Seal(plain)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%x came back as %x, %v", plain, got, err)
		}
		if got, err := s.Open(model.Sealed(sealed)); err == nil && sealed != "" {
			t.Errorf("a text that nobody sealed opens as %q", got)
		}
	})
}

func BenchmarkSealKey(b *testing.B) {
	s := testSealer(b, "5a")
	k := model.NewPrivateKey()
	b.ReportAllocs()
	for b.Loop() {
		s.SealKey(k)
	}
}

func BenchmarkOpenKey(b *testing.B) {
	s := testSealer(b, "5a")
	sealed := s.SealKey(model.NewPrivateKey())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.OpenKey(sealed); err != nil {
			b.Fatal(err)
		}
	}
}
