package proxy

import (
	"bytes"
)

// coding is a content coding (RFC 9110, section 8.4.1).
type coding uint8

const (
	identity coding = iota
	gzipCoding
	brotliCoding
	zstdCoding // the fastest by far
	codings
)

var codingNames = [codings]string{"identity", "gzip", "br", "zstd"}

// acceptable chooses the best of our codings that an Accept-Encoding list allows,
// by its weights, then by speed (RFC 9110, section 12.5.3).
func acceptable(list []byte) coding {
	const unsaid = -1
	weights := [codings]int{unsaid, unsaid, unsaid, unsaid}
	others := 0 // what "*" says of codings that are not named
	for len(list) > 0 {
		var e []byte
		e, list = cutList(list)
		name, weight := cutWeight(e)
		switch {
		case equalFold(name, "gzip"), equalFold(name, "x-gzip"):
			weights[gzipCoding] = weight
		case equalFold(name, "br"):
			weights[brotliCoding] = weight
		case equalFold(name, "zstd"):
			weights[zstdCoding] = weight
		case equalFold(name, "identity"):
			weights[identity] = weight
		case string(name) == "*":
			others = weight
		}
	}
	best, most := identity, 0
	for c := codings - 1; c > identity; c-- {
		w := weights[c]
		if w == unsaid {
			w = others
		}
		if w > most {
			best, most = c, w
		}
	}
	if weights[identity] > most {
		return identity
	}
	return best
}

// minCompressed is the shortest body that is worth it: a shorter one fits a packet
// in any case.
const minCompressed = 512

// varies reports whether an answer would be compressed for one client or another,
// so that caches have to know. It must be text, whole, and nobody may have said
// that it stays as it is.
func (a *answer) varies() bool {
	switch {
	case a.status < 200, a.status == 204, a.status == 205, a.status == 206, a.status == 304:
		return false
	case a.length >= 0 && a.length < minCompressed:
		return false
	}
	text := false
	for i := range a.fields {
		f := &a.fields[i]
		switch name := f.name; {
		case equalFold(name, "content-type"):
			text = isText(f.value)
		case equalFold(name, "content-encoding"):
			if !equalFold(f.value, "identity") {
				return false
			}
		case equalFold(name, "cache-control"):
			if listHas(f.value, "no-transform") {
				return false
			}
		case equalFold(name, "content-range"), equalFold(name, "content-md5"), equalFold(name, "content-digest"),
			equalFold(name, "repr-digest"), equalFold(name, "digest"):
			return false
		}
	}
	return text
}

// wanted is the coding that the client of q wants for a whole answer.
func (q *request) wanted() coding {
	var accept []byte
	for i := range q.fields {
		f := &q.fields[i]
		switch {
		case equalFold(f.name, "accept-encoding"):
			accept = joinList(accept, f.value)
		case equalFold(f.name, "cache-control"):
			if listHas(f.value, "no-transform") {
				return identity
			}
		}
	}
	return acceptable(accept)
}

// isText reports whether a media type is worth compressing.
func isText(mediaType []byte) bool {
	essence, _, _ := bytes.Cut(mediaType, semicolon)
	essence = trimSpace(essence)
	var low [64]byte
	if len(essence) > len(low) {
		return false
	}
	n := len(essence)
	for i, c := range essence {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	if hasPrefix(low[:n], "text/") || bytes.HasSuffix(low[:n], []byte("+json")) || bytes.HasSuffix(low[:n], []byte("+xml")) {
		return true
	}
	switch string(low[:n]) {
	case "application/json", "application/javascript", "application/x-javascript", "application/ecmascript",
		"application/xml", "application/x-ndjson", "application/jsonl", "application/json-seq", "application/graphql",
		"application/manifest+json", "application/wasm", "application/yaml", "application/x-yaml", "application/toml",
		"application/sql", "application/rtf", "application/x-sh", "application/x-www-form-urlencoded",
		"application/vnd.ms-fontobject", "application/x-font-ttf", "font/ttf", "font/otf", "font/collection",
		"image/bmp", "image/x-icon", "image/vnd.microsoft.icon":
		return true
	}
	return false
}

// encode decides on the coding of the answer, and returns its body in it if small,
// the body, is all of it. If whole is false the body streams, and ex.encoder is what
// it goes through.
func (ex *exchange) encode(head bool, small []byte, whole bool) []byte {
	a := &ex.answer
	if ex.client.Version() == version10 || whole && !head && len(small) < minCompressed || !a.varies() {
		return small
	}
	a.vary = true
	want := ex.request.wanted()
	if want == identity {
		return small
	}
	if head { // as a GET would be answered
		a.coding = want
		return small
	}
	enc := ex.srv.encoder(ex.client.Tally(), want, isEventStream(a))
	if enc == nil {
		return small // there is no room; not worth a wait
	}
	a.coding, ex.encoder = want, enc
	if !whole {
		return small
	}
	_, err := enc.w.Write(small)
	if err == nil {
		err = enc.w.Close()
	}
	if err != nil || len(enc.out) >= len(small) {
		a.coding = identity
		return small
	}
	return enc.out
}

func isEventStream(a *answer) bool {
	for i := range a.fields {
		if f := &a.fields[i]; equalFold(f.name, "content-type") {
			essence, _, _ := bytes.Cut(f.value, semicolon)
			return equalFold(trimSpace(essence), "text/event-stream")
		}
	}
	return false
}

// appendCoded writes those fields of an answer that its coding changes, and reports
// whether f was one of them.
func (a *answer) appendCoded(b []byte, f *field) ([]byte, bool) {
	switch {
	case equalFold(f.name, "etag"):
		if len(f.value) > 0 && f.value[0] == '"' { // the bytes are not those of the backend any more
			b = append(append(b, f.name...), ": W/"...)
			return append(append(b, f.value...), "\r\n"...), true
		}
	case f.kind == lengthField, equalFold(f.name, "accept-ranges"), equalFold(f.name, "content-encoding"):
		return b, true
	}
	return b, false
}

// appendCoding says how the answer is coded, and that this depends on the client. A
// Vary of the backend says so only if it is not replaced by set.
func (a *answer) appendCoding(b []byte, set setFields) []byte {
	if a.coding != identity {
		b = append(append(append(b, "Content-Encoding: "...), codingNames[a.coding]...), "\r\n"...)
	}
	for i := range a.fields {
		if f := &a.fields[i]; equalFold(f.name, "vary") && !set.has(f.name) && (listHas(f.value, "accept-encoding") || listHas(f.value, "*")) {
			return b
		}
	}
	return append(b, "Vary: Accept-Encoding\r\n"...)
}
