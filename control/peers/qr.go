package peers

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"

	"github.com/skip2/go-qrcode"

	"gatecontrol/model"
)

// Looks of the QR image.
const (
	qrSize  = 280 // pixels, both ways
	qrQuiet = 2   // modules around it at least
)

// qrPalette is background, then modules.
var qrPalette = color.Palette{color.White, color.RGBA{0x1c, 0x19, 0x17, 0xff}}

// QR returns the config of a peer and its QR code as a PNG image. KindInvalid
// if the config is longer than such a code can hold.
func (s *Service) QR(ctx context.Context, id model.PeerID) (name, text string, img []byte, err error) {
	if name, text, err = s.Config(ctx, id); err != nil {
		return "", "", nil, err
	}
	code, err := qrcode.New(text, qrcode.Medium)
	if err != nil {
		return "", "", nil, &model.Error{Kind: model.KindInvalid, Message: "the config is too long for a QR code", Err: err}
	}
	code.DisableBorder = true
	img, err = drawQR(code.Bitmap())
	return name, text, img, err
}

// drawQR draws every module with the same whole number of pixels, which cameras
// read best, and gives the rest to the border.
func drawQR(modules [][]bool) ([]byte, error) {
	n := len(modules)
	scale := max(qrSize/(n+2*qrQuiet), 1)
	border := (qrSize - n*scale) / 2
	m := image.NewPaletted(image.Rect(0, 0, qrSize, qrSize), qrPalette)
	for y, row := range modules {
		for x, dark := range row {
			if !dark {
				continue
			}
			for dy := range scale {
				for dx := range scale {
					m.SetColorIndex(border+x*scale+dx, border+y*scale+dy, 1)
				}
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
