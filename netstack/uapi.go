package netstack

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gatecontrol/model"
)

// The configuration protocol of wireguard-go: lines of key=value, keys in hex
// (https://www.wireguard.com/xplatform/#configuration-protocol). The same types
// describe what is set and what is read back.

// uapiDevice is one set operation, or the answer to one get operation.
type uapiDevice struct {
	PrivateKey   model.PrivateKey // zero: unchanged
	ListenPort   *uint16          // nil: unchanged
	ReplacePeers bool
	Peers        []uapiPeer // applied in order; the same key may come again
}

// uapiPeer is one peer section. Nil and empty mean unchanged.
type uapiPeer struct {
	PublicKey    model.PublicKey
	Remove       bool
	UpdateOnly   bool              // do not create the peer
	PresharedKey *model.PrivateKey // zero key: none
	Endpoint     netip.AddrPort
	Keepalive    *uint16
	LostIPs      []netip.Prefix // taken away before AllowedIPs are added
	AllowedIPs   []netip.Prefix

	// Read back only.
	LastHandshake    time.Time // zero: never
	RxBytes, TxBytes uint64
}

// encode writes d as the text of a set operation.
func (d *uapiDevice) encode() string {
	b := make([]byte, 0, 256*(len(d.Peers)+1))
	if !d.PrivateKey.IsZero() {
		b = appendKey(b, "private_key", d.PrivateKey)
	}
	if d.ListenPort != nil {
		b = appendUint(b, "listen_port", uint64(*d.ListenPort))
	}
	if d.ReplacePeers {
		b = append(b, "replace_peers=true\n"...)
	}
	for i := range d.Peers {
		b = d.Peers[i].append(b)
	}
	return string(b)
}

func (p *uapiPeer) append(b []byte) []byte {
	b = appendKey(b, "public_key", p.PublicKey)
	if p.Remove {
		b = append(b, "remove=true\n"...)
	}
	if p.UpdateOnly {
		b = append(b, "update_only=true\n"...)
	}
	if p.PresharedKey != nil {
		b = appendKey(b, "preshared_key", *p.PresharedKey)
	}
	if p.Endpoint.IsValid() {
		b = append(b, "endpoint="...)
		b = append(p.Endpoint.AppendTo(b), '\n')
	}
	if p.Keepalive != nil {
		b = appendUint(b, "persistent_keepalive_interval", uint64(*p.Keepalive))
	}
	for _, prefix := range p.LostIPs {
		b = append(b, "allowed_ip=-"...)
		b = append(prefix.AppendTo(b), '\n')
	}
	for _, prefix := range p.AllowedIPs {
		b = append(b, "allowed_ip="...)
		b = append(prefix.AppendTo(b), '\n')
	}
	return b
}

func appendKey[K ~[32]byte](b []byte, name string, key K) []byte {
	b = append(append(b, name...), '=')
	raw := [32]byte(key)
	return append(hex.AppendEncode(b, raw[:]), '\n')
}

func appendUint(b []byte, name string, v uint64) []byte {
	b = append(append(b, name...), '=')
	return append(strconv.AppendUint(b, v, 10), '\n')
}

// parseUAPI reads the answer to a get operation, and what encode writes.
// Errors name the key of a line and its number, never the value, which may be
// a secret.
func parseUAPI(text string) (uapiDevice, error) {
	var d uapiDevice
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return d, fmt.Errorf("configuration text, line %d: no key", number)
		}
		var err error
		switch {
		case key == "public_key":
			var k [32]byte
			k, err = parseHexKey(value)
			d.Peers = append(d.Peers, uapiPeer{PublicKey: k})
		case len(d.Peers) == 0:
			err = d.set(key, value)
		default:
			err = d.Peers[len(d.Peers)-1].set(key, value)
		}
		if err != nil {
			return d, fmt.Errorf("configuration text, line %d: %w", number, err)
		}
	}
	return d, nil
}

var (
	errUnknownKey = errors.New("unknown key")
	errBadValue   = errors.New("the value does not fit its key")
)

func (d *uapiDevice) set(key, value string) (err error) {
	switch key {
	case "private_key":
		d.PrivateKey, err = parseHexKey(value)
	case "listen_port":
		d.ListenPort, err = parseUint16(value)
	case "replace_peers":
		d.ReplacePeers, err = true, wantTrue(value)
	case "fwmark":
	default:
		return errUnknownKey
	}
	return err
}

func (p *uapiPeer) set(key, value string) (err error) {
	switch key {
	case "remove":
		p.Remove, err = true, wantTrue(value)
	case "update_only":
		p.UpdateOnly, err = true, wantTrue(value)
	case "preshared_key":
		var k [32]byte
		k, err = parseHexKey(value)
		p.PresharedKey = (*model.PrivateKey)(&k)
	case "endpoint":
		if p.Endpoint, err = netip.ParseAddrPort(value); err != nil {
			err = errBadValue
		}
	case "persistent_keepalive_interval":
		p.Keepalive, err = parseUint16(value)
	case "allowed_ip":
		text, lost := strings.CutPrefix(value, "-")
		prefix, perr := netip.ParsePrefix(text)
		switch {
		case perr != nil:
			err = errBadValue
		case lost:
			p.LostIPs = append(p.LostIPs, prefix)
		default:
			p.AllowedIPs = append(p.AllowedIPs, prefix)
		}
	case "last_handshake_time_sec":
		err = p.addHandshake(value, time.Second)
	case "last_handshake_time_nsec":
		err = p.addHandshake(value, time.Nanosecond)
	case "rx_bytes":
		p.RxBytes, err = parseUint(value)
	case "tx_bytes":
		p.TxBytes, err = parseUint(value)
	case "protocol_version":
		if value != "1" {
			err = errBadValue
		}
	default:
		return errUnknownKey
	}
	return err
}

// addHandshake adds v units to the handshake time, which comes in two lines.
// Zero in both means that there was none.
func (p *uapiPeer) addHandshake(value string, unit time.Duration) error {
	v, err := strconv.ParseInt(value, 10, 64)
	if err != nil || v < 0 || v > int64(1<<62)/int64(unit) {
		return errBadValue
	}
	if v == 0 {
		return nil
	}
	if p.LastHandshake.IsZero() {
		p.LastHandshake = time.Unix(0, 0).UTC()
	}
	p.LastHandshake = p.LastHandshake.Add(time.Duration(v) * unit)
	return nil
}

func parseHexKey(s string) (k [32]byte, err error) {
	if len(s) != 2*len(k) {
		return k, errBadValue
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return [32]byte{}, errBadValue
	}
	return k, nil
}

func parseUint(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, errBadValue
	}
	return v, nil
}

func parseUint16(s string) (*uint16, error) {
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return nil, errBadValue
	}
	u := uint16(v)
	return &u, nil
}

func wantTrue(s string) error {
	if s != "true" {
		return errBadValue
	}
	return nil
}
