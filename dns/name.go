package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatecontrol/model"
)

// maxName is the longest name in wire form, in bytes (RFC 1035 section 2.3.4).
const maxName = 255

// wireName returns a host name in wire form: lower case, uncompressed, with
// the closing zero. Underscores are let through, as service names use them.
func wireName(field, name string) (string, error) {
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	if len(host) == 0 || len(host) > 253 {
		return "", model.Invalid(field, "%q is not a name: 1 to 253 characters are expected", name)
	}
	wire := make([]byte, 0, len(host)+2)
	for label := range strings.SplitSeq(host, ".") {
		if !isLabel(label) {
			return "", model.Invalid(field, "%q is not a name: each part has 1 to 63 letters, digits or inner hyphens", name)
		}
		wire = append(wire, byte(len(label)))
		wire = append(wire, label...)
	}
	return string(append(wire, 0)), nil
}

func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// reverseName returns the wire name of the reverse lookup of an address
// (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverseName(a netip.Addr) string {
	var wire []byte
	if a.Is4() {
		wire = make([]byte, 0, 30)
		for _, octet := range slices.Backward(a.AsSlice()) {
			at := len(wire)
			wire = strconv.AppendUint(append(wire, 0), uint64(octet), 10)
			wire[at] = byte(len(wire) - at - 1)
		}
		return string(append(wire, "\x07in-addr\x04arpa\x00"...))
	}
	const digits = "0123456789abcdef"
	for _, octet := range slices.Backward(a.AsSlice()) {
		wire = append(wire, 1, digits[octet&15], 1, digits[octet>>4])
	}
	return string(append(wire, "\x03ip6\x04arpa\x00"...))
}

// parent cuts the first label off a wire name.
func parent(wire string) string { return wire[1+int(wire[0]):] }
