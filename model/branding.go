package model

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// Bounds of Branding, in characters, as GateControl has them.
const (
	maxBrandingTitle      = 255
	maxBrandingText       = 2000
	maxBrandingColor      = 120
	maxBrandingBackground = 200
)

// A colour or gradient stands in a style sheet: nothing in it may end the value
// or load something.
var (
	cssColor    = regexp.MustCompile(`^(?:#[0-9A-Fa-f]{3,8}|[A-Za-z]{1,30}|(?:rgb|hsl)a?\([0-9,.% ]+\))$`)
	cssGradient = regexp.MustCompile(`^(?:linear|radial|conic)-gradient\([A-Za-z0-9#.,%() ]+\)$`)
)

// Check notes every text of b that it cannot have under its name in the API.
func (b *Branding) Check(bad *Invalids) {
	if utf8.RuneCountInString(b.Title) > maxBrandingTitle {
		bad.Add("branding_title", "must be at most %d characters", maxBrandingTitle)
	}
	if utf8.RuneCountInString(b.Text) > maxBrandingText {
		bad.Add("branding_text", "must be at most %d characters", maxBrandingText)
	}
	if b.Color != "" && (len(b.Color) > maxBrandingColor || !cssColor.MatchString(b.Color)) {
		bad.Add("branding_color", "must be a CSS colour such as #336699")
	}
	gradient := cssGradient.MatchString(b.Background) && !strings.Contains(strings.ToLower(b.Background), "url")
	if b.Background != "" && (len(b.Background) > maxBrandingBackground || !gradient && !cssColor.MatchString(b.Background)) {
		bad.Add("branding_bg", "must be a CSS colour or gradient")
	}
}
