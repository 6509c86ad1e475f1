package model

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Bob's keys of RFC 7748 section 6.1.
func TestPublicOf(t *testing.T) {
	raw, err := hex.DecodeString("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
	if err != nil {
		t.Fatal(err)
	}
	got := PrivateKey(raw).Public()
	if want := "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"; hex.EncodeToString(got[:]) != want {
		t.Errorf("public key %x, want %s", got[:], want)
	}
}

func TestNewKeys(t *testing.T) {
	a, b := NewPrivateKey(), NewPrivateKey()
	if a == b || a[0]&7 != 0 || a[31]&0x80 != 0 || a[31]&0x40 == 0 {
		t.Error("not a fresh clamped key")
	}
	if p, q := NewPresharedKey(), NewPresharedKey(); p == q || p.IsZero() {
		t.Error("not a fresh preshared key")
	}
}

func TestParseKey(t *testing.T) {
	k := NewPrivateKey()
	text := k.Base64()
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"a key", text, true},
		{"empty", "", false},
		{"short", text[:40] + "====", false},
		{"long", text + "AAAA", false},
		{"not base64", "!" + text[1:], false},
		{"no padding", strings.TrimRight(text, "="), false},
		{"bits behind the end", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF=", false},
		{"line break inside", text[:20] + "\n" + text[20:], false},
		{"space behind", text + " ", false},
		{"URL alphabet", strings.Repeat("_", 43) + "=", false},
		{"zeros", PublicKey{}.String(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := ParsePrivateKey(c.text); (err == nil) != c.ok || c.ok && got != k {
				t.Errorf("private: %v", err)
			}
			got, err := ParsePublicKey(c.text)
			if (err == nil) != c.ok || c.ok && got.String() != c.text {
				t.Errorf("public: %v", err)
			}
			if err != nil && c.text != "" && strings.Contains(err.Error(), c.text) {
				t.Error("the error repeats what may be a key")
			}
		})
	}
}

func TestPublicKeyText(t *testing.T) {
	k := NewPrivateKey().Public()
	text, err := json.Marshal(map[string]PublicKey{"k": k})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]PublicKey
	if err := json.Unmarshal(text, &got); err != nil || got["k"] != k {
		t.Errorf("%s came back as %v, %v", text, got, err)
	}
	if err := json.Unmarshal([]byte(`{"k":"x"}`), &got); err == nil || got["k"] != k {
		t.Error("a broken key was taken")
	}
	if !(PublicKey{}).IsZero() || k.IsZero() {
		t.Error("IsZero")
	}
}

// verbs are all that fmt knows, and some that it does not. Missing are %p of what
// is no pointer and %w of what is no error: for these mistakes, which go vet
// refuses, fmt prints the value past every method.
const verbs = "vTtbcdoOqxXUeEfFgGsz!"

// Whatever is done with a secret, short of asking for it, does not show it.
func TestRedaction(t *testing.T) {
	key := PrivateKey(bytes.Repeat([]byte{0xA7}, 32))
	raw := string(key[:])
	marks := []string{
		"hunter2secret", "HUNTER2SECRET", hex.EncodeToString([]byte("hunter2secret")), base64.StdEncoding.EncodeToString([]byte("hunter2secret")),
		key.Base64(), key.Base64()[:12], hex.EncodeToString(key[:])[:8], strings.ToUpper(hex.EncodeToString(key[:]))[:8], "167 167", raw[:4], "a7 a7", "[167",
	}
	check := func(how, got string) {
		t.Helper()
		for _, m := range marks {
			if strings.Contains(got, m) {
				t.Errorf("%s shows it: %q", how, got)
			}
		}
	}
	secret := Secret("hunter2secret")
	type holder struct {
		S  Secret
		K  PrivateKey
		PS *Secret
		PK *PrivateKey
		M  map[string]Secret
		L  []PrivateKey
	}
	h := holder{secret, key, &secret, &key, map[string]Secret{"a": secret}, []PrivateKey{key}}
	values := map[string]any{
		"secret": secret, "pointer to secret": &secret, "key": key, "pointer to key": &key,
		"struct": h, "pointer to struct": &h, "list": []any{secret, key}, "error": fmt.Errorf("failed with %v and %x", secret, key),
	}
	for name, v := range values {
		for _, verb := range verbs {
			for _, flags := range []string{"", "+", "#", "-40", " ", "0", "10.3", "# "} {
				format := "%" + flags + string(verb)
				check(name+" "+format, fmt.Sprintf(format, v))
			}
		}
		check(name+" Sprint", fmt.Sprint(v))
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		check(name+" JSON", string(text))
		for _, handler := range []func(*bytes.Buffer) slog.Handler{
			func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b bytes.Buffer
			slog.New(handler(&b)).Info("x", "v", v, slog.Any("group", []any{v}))
			check(name+" log", b.String())
		}
	}
	check("String", secret.String()+key.String()+secret.GoString()+key.GoString())
	if secret.Reveal() != "hunter2secret" || key.Base64() != base64.StdEncoding.EncodeToString(key[:]) {
		t.Error("asked for, it is not given")
	}
	var s Secret
	if err := json.Unmarshal([]byte(`"x"`), &s); err != nil || s.Reveal() != "x" {
		t.Errorf("read as %q, %v", s.Reveal(), err)
	}
	if got := fmt.Sprintln(secret, key); got != "[redacted] [redacted]\n" {
		t.Errorf("printed as %s", got)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(NewPrivateKey().Base64())
	f.Add("")
	f.Add(strings.Repeat("A", 43) + "=")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKey(s)
		if err == nil && (k.String() != s || k.IsZero()) {
			t.Errorf("%q is taken for %s", s, k)
		}
	})
}
