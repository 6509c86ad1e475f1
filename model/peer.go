package model

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// PeerType tells a plain WireGuard peer from a home gateway, which forwards
// into the network behind it.
type PeerType string

// The peer types.
const (
	PeerRegular PeerType = "regular"
	PeerGateway PeerType = "gateway"
)

// HostnameSource says who gave a peer its host name.
type HostnameSource string

// The sources of a host name. An administrator's name is never replaced by an
// agent's; stale marks an agent's name that came with a restored backup.
const (
	HostnameNone  HostnameSource = ""
	HostnameAdmin HostnameSource = "admin"
	HostnameAgent HostnameSource = "agent"
	HostnameStale HostnameSource = "stale"
)

// OnlineWindow is how young the last handshake of an online peer is. WireGuard
// renews a session in use after 120 s and drops it after 180 s.
const OnlineWindow = 180 * time.Second

// Peer is a WireGuard device that may join the tunnel.
type Peer struct {
	ID          PeerID   `json:"id"`
	Name        string   `json:"name"`
	Description *string  `json:"description,omitempty"`
	Type        PeerType `json:"type"`
	Enabled     bool     `json:"enabled"`
	User        UserID   `json:"user,omitempty"`  // whose device it is, 0: nobody's
	Group       GroupID  `json:"group,omitempty"` // 0: none

	PublicKey    PublicKey `json:"public_key"`
	PrivateKey   Sealed    `json:"private_key,omitempty"` // empty: the key never left its device
	PresharedKey Sealed    `json:"preshared_key,omitempty"`

	AllowedIPs []netip.Prefix `json:"allowed_ips"` // the first one is the tunnel address
	DNS        []netip.Addr   `json:"dns,omitempty"`
	Keepalive  uint16         `json:"keepalive"` // seconds, 0 is off

	Tags      string     `json:"tags"` // comma-separated, as typed
	ExpiresAt *time.Time `json:"expires_at,omitempty"`

	Hostname           string         `json:"hostname,omitempty"`
	HostnameSource     HostnameSource `json:"hostname_source,omitempty"`
	HostnameReportedAt *time.Time     `json:"hostname_reported_at,omitempty"`

	Gateway *GatewayAccess `json:"gateway,omitempty"` // only for PeerGateway

	// Up and down are the peer's: up is what it sends. Bits per second, 0 is no limit.
	RateLimitUp   uint64 `json:"rate_limit_up,omitempty"`
	RateLimitDown uint64 `json:"rate_limit_down,omitempty"`

	QuotaBytes  uint64      `json:"quota_bytes,omitempty"`  // per month, both directions together; 0 is none
	QuotaAction QuotaAction `json:"quota_action,omitempty"` // empty is QuotaBlock
	QuotaMarks  Months      `json:"quota_marks,omitempty"`  // how much of the quota was told to be used, in percent

	Isolated bool `json:"isolated,omitempty"` // neither reaches other peers nor is reached by them
	NoExit   bool `json:"no_exit,omitempty"`  // does not reach the internet through this server
	Trusted  bool `json:"trusted,omitempty"`  // may open the ports of a home gateway

	Windows Windows `json:"windows,omitzero"` // when it belongs into the tunnel

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// GatewayAccess is how a home gateway and this server reach each other.
type GatewayAccess struct {
	APIPort      uint16 `json:"api_port"`
	ProxyPort    uint16 `json:"proxy_port"`
	APITokenHash string `json:"api_token_hash"` // "sha256:" and hex of the gateway's token
	PushToken    Sealed `json:"push_token"`
}

// Address returns the tunnel address of p.
func (p *Peer) Address() netip.Addr {
	if len(p.AllowedIPs) == 0 {
		return netip.Addr{}
	}
	return p.AllowedIPs[0].Addr()
}

// Live reports whether p belongs into the tunnel at the time now, whose location is
// that of its windows.
func (p *Peer) Live(now time.Time) bool {
	return p.Enabled && (p.ExpiresAt == nil || p.ExpiresAt.After(now)) &&
		(p.OnQuota() == QuotaNotify || !p.QuotaExceeded(now)) && p.Windows.Open(now)
}

// OnQuota says what becomes of p when it has used up its quota.
func (p *Peer) OnQuota() QuotaAction {
	if p.QuotaAction == "" {
		return QuotaBlock
	}
	return p.QuotaAction
}

// QuotaExceeded reports whether p was found to have used up its quota in the
// month of now.
func (p *Peer) QuotaExceeded(now time.Time) bool {
	return p.QuotaBytes > 0 && len(p.QuotaMarks) > 0 && p.QuotaMarks.In(MonthOf(now)) >= QuotaExceeded
}

var (
	peerName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9 ._-]{0,62}$`)
	hostLabel = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
)

// reservedHostnames are labels of the internal zone that no peer may claim.
var reservedHostnames = map[string]bool{
	"localhost": true, "local": true, "host": true, "broadcasthost": true,
	"gateway": true, "server": true, "gc-server": true, "admin": true, "root": true,
	"router": true, "dns": true, "vpn": true, "api": true, "auth": true,
	"mail": true, "ns": true, "ns1": true, "ns2": true,
}

// ParsePeerName trims s and checks it: 1 to 63 of letters, digits, space, dot,
// underscore and hyphen, the first a letter or a digit.
func ParsePeerName(s string) (string, error) {
	s = strings.TrimSpace(s)
	if !peerName.MatchString(s) {
		return "", Invalid("name", "must be 1-63 letters, digits, spaces or . _ - and start with a letter or digit")
	}
	return s, nil
}

// ParseDescription checks the free text beside a peer, group or route: at most 255
// characters.
func ParseDescription(s string) (string, error) {
	if len([]rune(s)) > 255 {
		return "", Invalid("description", "must be at most 255 characters")
	}
	return s, nil
}

// ParseHostname trims and lower-cases s and checks that it is one label of the
// internal zone (RFC 1123 section 2.1) that is not reserved.
func ParseHostname(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if !hostLabel.MatchString(s) {
		return "", Invalid("hostname", "must be 1-63 of a-z, 0-9 and hyphen, with no hyphen at either end")
	}
	if reservedHostnames[s] {
		return "", Invalid("hostname", "%q is a reserved name", s)
	}
	return s, nil
}

// HostnameVariant returns base with a number behind it, shortened so that it
// stays a label of at most 63 characters.
func HostnameVariant(base string, n int) string {
	suffix := "-" + strconv.Itoa(n)
	if len(base)+len(suffix) > 63 {
		base = strings.TrimRight(base[:63-len(suffix)], "-")
	}
	return base + suffix
}

// ParseDNSList reads a comma-separated list of IPv4 resolvers, as a client's
// config names them. The empty text is the empty list.
func ParseDNSList(field, s string) ([]netip.Addr, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var list []netip.Addr
	for part := range strings.SplitSeq(s, ",") {
		a, err := netip.ParseAddr(strings.Trim(part, " "))
		if err != nil || !a.Is4() {
			return nil, Invalid(field, "must be a comma-separated list of IPv4 addresses")
		}
		list = append(list, a)
	}
	if len(list) > 8 {
		return nil, Invalid(field, "must name at most 8 addresses")
	}
	return list, nil
}

// ParseExpiry reads a point in time: RFC 3339, the same without a zone (UTC),
// or a bare date, which means the end of that day in UTC.
func ParseExpiry(field, s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	if t, err := time.Parse(time.DateOnly, s); err == nil && t.Year() >= 1 {
		return t.Add(24*time.Hour - time.Second), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, "2006-01-02T15:04", "2006-01-02 15:04"} {
		t, err := time.Parse(layout, s)
		if t = t.UTC(); err == nil && t.Year() >= 1 && t.Year() <= 9999 { // a zone can lead out of what RFC 3339 can write
			return t, nil
		}
	}
	return time.Time{}, Invalid(field, "must be a date or a time such as 2026-12-31 or 2026-12-31T23:59:59Z")
}

// ParseTags checks a comma-separated list of tags: each at most 64 characters
// without < > " or control characters.
func ParseTags(s string) (string, error) {
	if len(s) > 2048 {
		return "", Invalid("tags", "must be at most 2048 characters in all")
	}
	for tag := range strings.SplitSeq(s, ",") {
		if len([]rune(strings.TrimSpace(tag))) > 64 || strings.ContainsAny(tag, `<>"`) || strings.ContainsFunc(tag, unicode.IsControl) {
			return "", Invalid("tags", "each tag must be at most 64 characters without < > \" or control characters")
		}
	}
	return s, nil
}
