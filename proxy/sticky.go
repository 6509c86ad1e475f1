package proxy

import (
	"bytes"
	"strconv"
	"time"

	"gatecontrol/model"
)

// checkSticky refuses what would not come back as a cookie, or not as ours alone.
func checkSticky(st *model.Sticky) error {
	switch {
	case st == nil:
		return nil
	case !isCookieName(st.Cookie) || ownCookie([]byte(st.Cookie)):
		return model.Invalid("sticky_cookie_name", "letters, digits, - and _ alone")
	case st.TTL < time.Second:
		return model.Invalid("sticky_cookie_ttl", "less than a second")
	}
	return nil
}

func isCookieName(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c == '-' || c == '_') {
			return false
		}
	}
	return name != ""
}

// cookie returns the value of the first cookie of that name.
func (q *request) cookie(name string) []byte {
	for i := range q.fields {
		if q.fields[i].kind != cookieField {
			continue
		}
		for rest := q.fields[i].value; len(rest) > 0; {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, semicolon)
			if n, value, ok := bytes.Cut(pair, equals); ok && string(trimSpace(n)) == name {
				return trimSpace(value)
			}
		}
	}
	return nil
}

// appendSticky writes the cookie that brings a client back to the backend that
// answered, if it has none. A site may be shown in a frame of another one, where
// cookies that are not SameSite=None stay behind; without TLS that is not to be had.
func (ex *exchange) appendSticky(b []byte) []byte {
	if ex.mark == "" {
		return b
	}
	st := ex.route.options.Sticky
	b = append(append(append(b, "Set-Cookie: "...), st.Cookie...), '=')
	b = append(append(b, ex.mark...), "; Path=/; Max-Age="...)
	b = strconv.AppendInt(b, int64(st.TTL/time.Second), 10)
	if ex.client.Secure() {
		return append(b, "; HttpOnly; Secure; SameSite=None\r\n"...)
	}
	return append(b, "; HttpOnly; SameSite=Lax\r\n"...)
}
