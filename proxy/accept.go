package proxy

import (
	"bytes"

	"github.com/valyala/fasthttp"
)

// pageForm is a form of our pages.
type pageForm uint8

// In the order in which they are chosen among equals.
const (
	formHTML pageForm = iota
	formJSON
	formText
	pageForms
)

// negotiate finds the form and the language of a page that a client likes best
// (RFC 9110, sections 12.5.1 and 12.5.4). Who says nothing gets HTML, and who takes
// no form of ours a text.
func negotiate(h *fasthttp.RequestHeader) (form pageForm, lang string) {
	var media [pageForms]preference
	english, german := preference{}, preference{}
	anyMedia, anyLanguage := false, false
	for name, value := range h.AllInOrder() {
		switch {
		case equalFold(name, "accept"):
			anyMedia = true
			for list := value; len(list) > 0; {
				var e []byte
				e, list = cutList(list)
				r, q := cutWeight(e)
				for f := range media {
					media[f].note(matchMedia(r, pageForm(f)), q)
				}
			}
		case equalFold(name, "accept-language"):
			anyLanguage = true
			for list := value; len(list) > 0; {
				var e []byte
				e, list = cutList(list)
				r, q := cutWeight(e)
				english.note(matchLanguage(r, "en"), q)
				german.note(matchLanguage(r, "de"), q)
			}
		}
	}
	form, lang = formText, defaultLanguage
	if anyMedia {
		best := preference{}
		for f, p := range media {
			// Among equals, what was named rather than what "*/*" lets pass.
			if p.weight > best.weight || p.weight == best.weight && p.weight > 0 && p.closeness > best.closeness {
				best, form = p, pageForm(f)
			}
		}
	} else {
		form = formHTML
	}
	if anyLanguage && german.weight > english.weight {
		lang = "de"
	}
	return form, lang
}

// preference is how much a client likes one thing: the weight of the range that
// matches it most closely.
type preference struct{ closeness, weight int }

func (p *preference) note(closeness, weight int) {
	if closeness > p.closeness || closeness > 0 && closeness == p.closeness && weight > p.weight {
		p.closeness, p.weight = closeness, weight
	}
}

// cutWeight splits an element of a list into its range and its weight, in
// thousandths. Parameters besides the weight are ignored. A weight that cannot be
// read is none.
func cutWeight(e []byte) (r []byte, weight int) {
	r, params, _ := bytes.Cut(e, semicolon)
	weight = 1000
	for len(params) > 0 {
		var p []byte
		p, params, _ = bytes.Cut(params, semicolon)
		name, value, ok := bytes.Cut(p, equals)
		if ok && equalFold(trimSpace(name), "q") {
			weight = parseWeight(trimSpace(value))
			break
		}
	}
	return trimSpace(r), weight
}

// parseWeight reads 0 to 1 with up to three decimals (RFC 9110, section 12.4.2), 0
// if it is none.
func parseWeight(b []byte) int {
	if len(b) == 0 || len(b) > 5 || b[0] != '0' && b[0] != '1' || len(b) > 1 && b[1] != '.' {
		return 0
	}
	weight, unit := int(b[0]-'0')*1000, 100
	for _, c := range b[min(2, len(b)):] {
		if !isDigit(c) {
			return 0
		}
		weight += int(c-'0') * unit
		unit /= 10
	}
	if weight > 1000 {
		return 0
	}
	return weight
}

// matchMedia tells how closely a media range matches a form: 0 is not at all.
func matchMedia(r []byte, f pageForm) int {
	typ, sub, ok := bytes.Cut(r, slash)
	if !ok {
		return 0
	}
	if string(sub) == "*" && string(typ) == "*" {
		return 1
	}
	main, subs := "text", "plain"
	switch f {
	case formHTML:
		subs = "html"
		if equalFold(typ, "application") && equalFold(sub, "xhtml+xml") {
			return 3
		}
	case formJSON:
		main, subs = "application", "json"
		if n := len(sub) - len("+json"); equalFold(typ, main) && n > 0 && equalFold(sub[n:], "+json") {
			return 3
		}
	}
	switch {
	case !equalFold(typ, main):
		return 0
	case string(sub) == "*":
		return 2
	case equalFold(sub, subs):
		return 3
	}
	return 0
}

// matchLanguage tells how closely a language range matches a language.
func matchLanguage(r []byte, lang string) int {
	if string(r) == "*" {
		return 1
	}
	primary, _, _ := bytes.Cut(r, []byte{'-'})
	if equalFold(primary, lang) {
		return 2
	}
	return 0
}
