package model

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"
)

// pictures are one of each kind that encoders make, by extension, of a size.
func pictures(t testing.TB, width, height int) map[string][]byte {
	t.Helper()
	img := image.NewPaletted(image.Rect(0, 0, width, height), color.Palette{color.Black, color.White})
	var asPNG, asJPEG, asGIF bytes.Buffer
	for _, err := range []error{png.Encode(&asPNG, img), jpeg.Encode(&asJPEG, img, nil), gif.Encode(&asGIF, img, nil)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return map[string][]byte{".png": asPNG.Bytes(), ".jpg": asJPEG.Bytes(), ".jpeg": asJPEG.Bytes(), ".gif": asGIF.Bytes()}
}

// The smallest pictures in the three forms of WebP, of 1 by 1 pixel, as they are
// used to find out whether a browser knows them.
var webps = map[string]string{
	"lossy":    "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA",
	"lossless": "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==",
	"extended": "UklGRkoAAABXRUJQVlA4WAoAAAAQAAAAAAAAAAAAQUxQSAwAAAARBxAR/Q9ERP8DAABWUDggGAAAABQBAJ0BKgEAAQAAAP4AAA3AAP7mtQAAAA==",
}

func decode(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPictures(t *testing.T) {
	for ext, content := range pictures(t, 3, 2) {
		kind := pictureTypeOf(ext)
		img, err := ParsePicture("logo", `C:\My Pictures\Logo.v2`+strings.ToUpper(ext), kind.mime, content)
		if err != nil || img.Extension != ext || !bytes.Equal(img.Content, content) {
			t.Errorf("%s: %q, %v", ext, img.Extension, err)
		}
		if w, h, ok := kind.size(content); !ok || w != 3 || h != 2 {
			t.Errorf("%s: %d by %d, %t", ext, w, h, ok)
		}
	}
	for form, text := range webps {
		content := decode(t, text)
		if _, err := ParsePicture("logo", "a.webp", "image/webp", content); err != nil {
			t.Errorf("%s WebP: %v", form, err)
		}
		if w, h, ok := webpSize(content); !ok || w != 1 || h != 1 {
			t.Errorf("%s WebP: %d by %d, %t", form, w, h, ok)
		}
	}
}

func TestLargePictures(t *testing.T) {
	for _, size := range []image.Point{{maxPictureSide + 1, 1}, {1, maxPictureSide + 1}} {
		for ext, content := range pictures(t, size.X, size.Y) {
			if _, err := ParsePicture("logo", "a"+ext, pictureTypeOf(ext).mime, content); err == nil {
				t.Errorf("%s of %v is taken", ext, size)
			}
		}
	}
	for ext, content := range pictures(t, maxPictureSide, 1) {
		if _, err := ParsePicture("logo", "a"+ext, pictureTypeOf(ext).mime, content); err != nil {
			t.Errorf("%s of the largest width: %v", ext, err)
		}
	}
	// One byte of each that makes it wide or high.
	for form, at := range map[string]struct {
		offset int
		value  byte
	}{"lossy": {27, 0x20}, "lossless": {24, 0x0f}, "extended": {26, 0x01}} {
		content := decode(t, webps[form])
		content[at.offset] = at.value
		if w, h, _ := webpSize(content); w <= maxPictureSide && h <= maxPictureSide {
			t.Errorf("%s WebP: still %d by %d", form, w, h)
		}
		if _, err := ParsePicture("logo", "a.webp", "image/webp", content); err == nil {
			t.Errorf("a large %s WebP is taken", form)
		}
	}
	// A WebP of one colour is short, however large it is.
	content := []byte("RIFF\x14\x00\x00\x00WEBPVP8L\x08\x00\x00\x00\x2f\xff\xff\xff\x0f\x88\x88\x08")
	if _, err := ParsePicture("logo", "a.webp", "image/webp", content); err == nil {
		t.Error("a large WebP of 28 bytes is taken")
	}
	// A GIF whose first picture is larger than what it says of itself.
	content = pictures(t, 3, 2)[".gif"]
	frame := bytes.IndexByte(content[13:], ',') + 13
	binary.LittleEndian.PutUint16(content[frame+7:], 9999)
	if _, err := ParsePicture("logo", "a.gif", "image/gif", content); err == nil {
		t.Error("a GIF with a large picture is taken")
	}
	// A PNG that is too large for the numbers of small machines.
	content = pictures(t, 3, 2)[".png"]
	binary.BigEndian.PutUint32(content[16:], 1<<31)
	if _, err := ParsePicture("logo", "a.png", "image/png", content); err == nil {
		t.Error("a PNG of 2^31 pixels is taken")
	}
}

func TestRefusedPictures(t *testing.T) {
	images := pictures(t, 3, 2)
	large := append(images[".png"], make([]byte, MaxPicture)...)
	for _, c := range []struct {
		name, file, declared string
		content              []byte
	}{
		{"SVG renamed", "a.png", "image/png", []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`)},
		{"SVG", "a.svg", "image/svg+xml", []byte(`<svg/>`)},
		{"SVG declared as PNG", "a.svg", "image/png", images[".png"]},
		{"HTML", "a.html", "text/html", []byte("<script>")},
		{"HTML declared as GIF", "a.html", "image/gif", images[".gif"]},
		{"GIF named PNG", "a.png", "image/png", images[".gif"]},
		{"GIF named PNG and declared as what it is", "a.png", "image/gif", images[".gif"]},
		{"PNG declared as GIF", "a.png", "image/gif", images[".png"]},
		{"PNG declared as nothing", "a.png", "", images[".png"]},
		{"PNG declared as bytes", "a.png", "application/octet-stream", images[".png"]},
		{"PNG declared as nonsense", "a.png", "image/png; ; =", images[".png"]},
		{"RIFF that is no WebP", "a.webp", "image/webp", []byte("RIFF\x00\x00\x00\x00WAVEfmt ")},
		{"half a WebP", "a.webp", "image/webp", []byte("RIFF\x00\x00")},
		{"no extension", "png", "image/png", images[".png"]},
		{"an extension before the last", "a.png.exe", "image/png", images[".png"]},
		{"an extension with a line break", "a.png\n", "image/png", images[".png"]},
		{"an extension with a zero byte", "a.exe\x00.png\x00", "image/png", images[".png"]},
		{"a directory that looks like one", "a.png/", "image/png", images[".png"]},
		{"no name", "", "image/png", images[".png"]},
		{"nothing in it", "a.png", "image/png", nil},
		{"too large", "a.png", "image/png", large[:MaxPicture+1]},
	} {
		if _, err := ParsePicture("logo", c.file, c.declared, c.content); KindOf(err) != KindInvalid {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := ParsePicture("logo", "a.png", "image/png", large[:MaxPicture]); err != nil {
		t.Errorf("the largest: %v", err)
	}
}

func TestPictureNames(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		img := Picture{Extension: ".png"}
		name := img.NewName()
		if typ, ok := PictureType(name); !ok || typ != "image/png" || seen[name] || len(name) != 40 || name[14] != '4' {
			t.Errorf("%s: %q, %t", name, typ, ok)
		}
		seen[name] = true
	}
	const uuid = "00112233-4455-4677-8899-aabbccddeeff"
	for _, name := range []string{
		"", uuid, uuid + ".", uuid + ".svg", uuid + ".PNG", uuid + ".png.png", "x" + uuid + ".png", "../" + uuid + ".png",
		"." + uuid + ".png", uuid + ".png\n", uuid + "/.png", strings.ToUpper(uuid) + ".png", ".png", "a.png",
	} {
		if typ, ok := PictureType(name); ok {
			t.Errorf("%q is a %s", name, typ)
		}
	}
}

// FuzzPicture looks for content that is not read to its end, or beyond.
func FuzzPicture(f *testing.F) {
	for _, content := range pictures(f, 3, 2) {
		f.Add(content)
	}
	for _, text := range webps {
		f.Add(decode(f, text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, kind := range pictureTypes {
			img, err := ParsePicture("logo", "x"+kind.extensions[0], kind.mime, content)
			if err != nil {
				continue
			}
			if typ, ok := PictureType(img.NewName()); !ok || typ != kind.mime {
				t.Errorf("%s is served as %q", kind.mime, typ)
			}
			// What can be told of the size is what a browser will make of it.
			if c, name, err := image.DecodeConfig(bytes.NewReader(content)); err == nil && kind.mime == "image/"+name && name != "gif" {
				if w, h, ok := kind.size(content); ok && (w != c.Width || h != c.Height) {
					t.Errorf("%s of %d by %d is taken for %d by %d", name, c.Width, c.Height, w, h)
				}
			}
		}
	})
}
