package telemetry

import (
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"

	"gatecontrol/model"
)

// appendAccess appends a record as one line of JSON. Times are seconds, as in the
// log of the reference, so that what reads the one reads the other.
func appendAccess(b []byte, r *model.AccessRecord) []byte {
	b = append(b, `{"ts":`...)
	b = appendSeconds(b, r.At.Unix(), int64(r.At.Nanosecond())/int64(time.Microsecond))
	b = append(b, `,"id":"`...)
	b = hex.AppendEncode(b, r.ID[:])
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"duration":`...)
	micros := max(0, r.Duration.Microseconds())
	b = appendSeconds(b, micros/1e6, micros%1e6)
	b = append(b, `,"size":`...)
	b = strconv.AppendInt(b, r.Size, 10)
	b = append(b, `,"request":{"remote_ip":"`...)
	if r.Remote.IsValid() {
		b = r.Remote.AppendTo(b)
	}
	b = append(b, `","proto":"`...)
	b = append(b, r.Proto...)
	b = append(b, `","tls":`...)
	b = strconv.AppendBool(b, r.TLS)
	b = appendText(append(b, `,"method":`...), r.Method)
	b = appendText(append(b, `,"host":`...), r.Host)
	b = appendText(append(b, `,"uri":`...), r.URI)
	b = appendText(append(b, `,"user_agent":`...), r.UserAgent)
	b = append(b, '}')
	if r.Route != 0 {
		b = append(b, `,"route":`...)
		b = strconv.AppendInt(b, int64(r.Route), 10)
	}
	if r.Upstream.IsValid() {
		b = append(b, `,"upstream":"`...)
		b = r.Upstream.AppendTo(b)
		b = append(b, '"')
	}
	if r.Refused != "" { // both are words of ours, and need no escapes
		b = append(append(append(b, `,"refused":"`...), r.Refused...), '"')
		b = append(append(append(b, `,"reason":"`...), r.Reason...), '"')
	}
	if r.Cut != "" {
		b = append(append(append(b, `,"cut":"`...), r.Cut...), '"')
	}
	return append(b, '}', '\n')
}

// appendSeconds appends seconds with their micros as six decimals.
func appendSeconds(b []byte, seconds, micros int64) []byte {
	b = strconv.AppendInt(b, seconds, 10)
	b = append(b, '.')
	for div := int64(100_000); div > 0; div /= 10 {
		b = append(b, byte('0'+micros/div%10))
	}
	return b
}

// plainText are the bytes that stand for themselves in a JSON string.
var plainText = func() (plain [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

// appendText appends b as a JSON string (RFC 8259, section 7). What is no UTF-8
// becomes U+FFFD, and a long text is cut.
func appendText(dst, b []byte) []byte {
	const digits = "0123456789abcdef"
	b = b[:min(len(b), accessText)]
	dst = append(dst, '"')
	for {
		n := 0
		for n < len(b) && plainText[b[n]] {
			n++
		}
		dst, b = append(dst, b[:n]...), b[n:]
		if len(b) == 0 {
			return append(dst, '"')
		}
		switch c := b[0]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			b = b[1:]
		case c < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			b = b[1:]
		default:
			r, n := utf8.DecodeRune(b)
			if r < 0xa0 { // a control character, too, to some terminals
				dst = append(dst, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
			} else {
				dst = utf8.AppendRune(dst, r)
			}
			b = b[n:]
		}
	}
}
