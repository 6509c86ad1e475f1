package model

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"mime"
	"path"
	"regexp"
	"strings"
)

// Bounds of a Picture. A browser needs 64 MiB to show one of the largest size.
const (
	MaxPicture     = 2 << 20 // bytes
	maxPictureSide = 4096    // pixels
)

// Picture is one as it came. It is handed on and never decoded here.
type Picture struct {
	Extension string // in lower case, with its dot
	Content   []byte
}

// pictureType is one kind of picture. SVG is none: it holds scripts.
type pictureType struct {
	mime       string
	extensions []string
	is         func([]byte) bool
	// size reads how many pixels wide and high a picture is; ok is false where
	// that cannot be told, and then no browser shows it either.
	size func([]byte) (width, height int, ok bool)
}

var pictureTypes = []pictureType{
	{"image/png", []string{".png"}, begins("\x89PNG"), pngSize},
	{"image/jpeg", []string{".jpg", ".jpeg"}, begins("\xff\xd8\xff"), jpegSize},
	{"image/gif", []string{".gif"}, begins("GIF8"), gifSize},
	{"image/webp", []string{".webp"}, func(b []byte) bool { return len(b) >= 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP" }, webpSize},
}

func begins(magic string) func([]byte) bool {
	return func(b []byte) bool { return bytes.HasPrefix(b, []byte(magic)) }
}

// ParsePicture checks a picture that came as field under a file name with a type
// that was declared. The extension, that type and the content must agree; nothing
// else of the name counts.
func ParsePicture(field, filename, declared string, content []byte) (Picture, error) {
	if len(content) > MaxPicture {
		return Picture{}, Invalid(field, "must be at most 2 MiB")
	}
	ext := strings.ToLower(path.Ext(filename))
	byName := pictureTypeOf(ext)
	if byName == nil {
		return Picture{}, Invalid(field, "must be a .png, .jpg, .jpeg, .webp or .gif file")
	}
	if typ, _, err := mime.ParseMediaType(declared); err != nil || typ != byName.mime {
		return Picture{}, Invalid(field, "must be declared as %s, which a %s file is", byName.mime, ext)
	}
	if !byName.is(content) {
		return Picture{}, Invalid(field, "is not what its name says, a %s file", ext)
	}
	if w, h, ok := byName.size(content); ok && (w > maxPictureSide || h > maxPictureSide) {
		return Picture{}, Invalid(field, "must be at most %d pixels wide and high, not %d by %d", maxPictureSide, w, h)
	}
	return Picture{ext, content}, nil
}

func pictureTypeOf(ext string) *pictureType {
	for i := range pictureTypes {
		for _, e := range pictureTypes[i].extensions {
			if e == ext {
				return &pictureTypes[i]
			}
		}
	}
	return nil
}

// NewName makes a name for p that nobody can guess: a random UUID and the
// extension.
func (p *Picture) NewName() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x%s", b[:4], b[4:6], b[6:8], b[8:10], b[10:], p.Extension)
}

var pictureName = regexp.MustCompile(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.[a-z]+)$`)

// PictureType returns the media type of the picture that NewName called name; ok is
// false for a name that it never makes.
func PictureType(name string) (mime string, ok bool) {
	m := pictureName.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	t := pictureTypeOf(m[1])
	if t == nil {
		return "", false
	}
	return t.mime, true
}

// pngSize reads the header, which comes first (PNG, section 5.6).
func pngSize(b []byte) (width, height int, ok bool) {
	if len(b) < 24 || string(b[12:16]) != "IHDR" {
		return 0, 0, false
	}
	side := func(b []byte) int { return int(min(binary.BigEndian.Uint32(b), 1<<30)) }
	return side(b[16:]), side(b[20:]), true
}

// gifSize reads the logical screen and the first picture on it, which some
// browsers go by where it is larger (GIF89a, sections 18 to 26).
func gifSize(b []byte) (width, height int, ok bool) {
	if len(b) < 13 {
		return 0, 0, false
	}
	uint16At := func(i int) int { return int(binary.LittleEndian.Uint16(b[i:])) }
	width, height = uint16At(6), uint16At(8)
	colors := 0
	if packed := b[10]; packed&0x80 != 0 {
		colors = 3 << (packed&7 + 1)
	}
	for i := 13 + colors; i+9 < len(b); {
		switch b[i] {
		case ',':
			return max(width, uint16At(i+5)), max(height, uint16At(i+7)), true
		case '!':
			for i += 2; i < len(b) && b[i] != 0; i += 1 + int(b[i]) { // its blocks
			}
			i++
		default:
			return width, height, true
		}
	}
	return width, height, true
}

// webpSize reads the first chunk (RFC 9649, section 2.4 to 2.7; RFC 6386, section
// 9.1).
func webpSize(b []byte) (width, height int, ok bool) {
	if len(b) < 25 {
		return 0, 0, false
	}
	chunk, kind := b[20:], string(b[12:16])
	switch {
	case kind == "VP8L": // the only one that may be so short
		bits := binary.LittleEndian.Uint32(chunk[1:])
		return int(bits&0x3fff) + 1, int(bits>>14&0x3fff) + 1, chunk[0] == 0x2f
	case len(chunk) < 10:
	case kind == "VP8X":
		uint24 := func(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
		return uint24(chunk[4:]) + 1, uint24(chunk[7:]) + 1, true
	case kind == "VP8 ":
		return int(binary.LittleEndian.Uint16(chunk[6:]) & 0x3fff), int(binary.LittleEndian.Uint16(chunk[8:]) & 0x3fff), string(chunk[3:6]) == "\x9d\x01\x2a"
	}
	return 0, 0, false
}

// jpegSize looks for the header of the frame, past the segments before it
// (ITU-T T.81, annex B).
func jpegSize(b []byte) (width, height int, ok bool) {
	for b = b[2:]; len(b) >= 9; {
		marker := b[1]
		switch {
		case b[0] != 0xff, marker == 0, marker == 0xff: // what decoders pass over
			b = b[1:]
		case marker == 0x01, marker >= 0xd0 && marker <= 0xd9: // nothing follows them
			b = b[2:]
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc:
			return int(binary.BigEndian.Uint16(b[7:])), int(binary.BigEndian.Uint16(b[5:])), true
		default:
			n := 2 + int(binary.BigEndian.Uint16(b[2:]))
			if n < 4 || n > len(b) {
				return 0, 0, false
			}
			b = b[n:]
		}
	}
	return 0, 0, false
}
