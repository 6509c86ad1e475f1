package proxy

import "strconv"

// appendSection encodes the field section of an answer for HPACK, of trailers if
// status is 0. It uses the static table alone (RFC 7541, appendix A): so it needs
// no state of the connection, handlers encode side by side, and a client can make
// it keep nothing.
func appendSection(b []byte, status int, fields []field) []byte {
	switch status {
	case 0:
	case 200, 204, 206, 304, 400, 404, 500:
		b = append(b, 0x80|statusIndex[status])
	default:
		b = append(b, 8, 3) // literal value for the name :status
		b = strconv.AppendInt(b, int64(status), 10)
	}
	for i := range fields {
		f := &fields[i]
		const literal, never = 0x00, 0x10
		kind := byte(literal)
		if f.kind == setCookieField || f.kind == authField {
			kind = never // to be indexed by nobody (RFC 7541, section 7.1.3)
		}
		if index := nameIndex[string(f.name)]; index > 0 {
			b = appendPrefixed(b, kind, 4, index)
		} else {
			b = append(b, kind)
			b = append(appendPrefixed(b, 0, 7, len(f.name)), f.name...)
		}
		b = append(appendPrefixed(b, 0, 7, len(f.value)), f.value...)
	}
	return b
}

// appendPrefixed writes an integer whose first bits share a byte with kind (RFC
// 7541, section 5.1).
func appendPrefixed(b []byte, kind byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, kind|byte(n))
	}
	b = append(b, kind|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

var statusIndex = map[int]byte{200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}

// nameIndex are the entries of the static table with names that answers have.
var nameIndex = map[string]int{
	"accept-ranges": 18, "access-control-allow-origin": 20, "age": 21, "allow": 22, "cache-control": 24,
	"content-disposition": 25, "content-encoding": 26, "content-language": 27, "content-length": 28,
	"content-location": 29, "content-range": 30, "content-type": 31, "date": 33, "etag": 34, "expires": 36,
	"last-modified": 44, "link": 45, "location": 46, "proxy-authenticate": 48, "refresh": 52,
	"retry-after": 53, "server": 54, "set-cookie": 55, "strict-transport-security": 56,
	"transfer-encoding": 57, "vary": 59, "via": 60, "www-authenticate": 61,
}
