package model

import "time"

// Web is what a web route has besides its target. A parameter of a switch that is
// off is kept: forms send both. The zero value is not the default, DefaultWeb is.
type Web struct {
	External bool       `json:"external"` // reached from everywhere; else from the tunnel alone
	Block    BlockReply `json:"block"`    // what others get

	ACL       ACL        `json:"acl"`
	IPFilter  IPFilter   `json:"ip_filter"`
	BasicAuth BasicAuth  `json:"basic_auth"`
	Bots      BotBlocker `json:"bots"`
	RateLimit RateLimit  `json:"rate_limit"`
	Breaker   Breaker    `json:"breaker"`
	ClientTLS ClientTLS  `json:"client_tls"`

	Compress bool      `json:"compress"`
	Headers  *Headers  `json:"headers,omitempty"` // nil: none
	Backends []Backend `json:"backends,omitempty"`
	Sticky   Sticky    `json:"sticky"`
	Retry    Retry     `json:"retry"`
	Mirror   Mirror    `json:"mirror"`
	Paths    []Path    `json:"paths,omitempty"`

	Trace    bool     `json:"trace"`              // the last requests are kept to be looked at
	Users    []int64  `json:"user_ids,omitempty"` // who sees the route in the desktop client; none: everyone
	Branding Branding `json:"branding"`
}

// The bounds of what a route leads to. Each backend and path has a pool of
// connections, and a request looks through the paths; a set of backends fits a word;
// each mirror doubles what a route sends.
const (
	MaxBackends = 20
	MaxWeight   = 1000
	MaxPaths    = 50
	MaxMirrors  = 5
)

// DefaultWeb is what a route has of which nothing is said.
func DefaultWeb() Web {
	return Web{
		External:  true,
		Block:     BlockReply{Action: BlockInherit},
		IPFilter:  IPFilter{Mode: FilterWhitelist},
		Bots:      BotBlocker{Mode: BotBlock},
		RateLimit: RateLimit{Requests: 100, Window: time.Minute},
		Breaker:   Breaker{Threshold: 5, Timeout: 30 * time.Second},
		Sticky:    Sticky{Cookie: "gc_sticky", TTL: time.Hour},
		Retry:     Retry{Count: 3, Statuses: []int{502, 503, 504}},
	}
}

// What a client outside of the tunnel gets of a route that is not external.
const (
	BlockInherit  = "inherit"   // as the setting of the server says
	BlockNotFound = "not_found" // 404 without a body
	BlockCustom   = "custom"    // 404 with Body, as HTML
	BlockRedirect = "redirect"  // 302 to URL
	BlockEmpty    = "empty"     // 200 without a body
)

// BlockReply is such an answer.
type BlockReply struct {
	Action string `json:"action"`
	Body   string `json:"body,omitempty"` // at most 16384 bytes
	URL    string `json:"url,omitempty"`  // absolute, http or https
}

// ACL lets in the peers of a list, by the address that they have in the tunnel.
// An empty list lets nobody in.
type ACL struct {
	Enabled bool     `json:"enabled"`
	Peers   []PeerID `json:"peers,omitempty"`
}

// The modes of an IPFilter.
const (
	FilterWhitelist = "whitelist" // who matches is let in, and nobody else
	FilterBlacklist = "blacklist" // who matches is refused
)

// IPFilter decides by the address of the connection.
type IPFilter struct {
	Enabled bool     `json:"enabled"`
	Mode    string   `json:"mode"`
	Rules   []IPRule `json:"rules,omitempty"` // at most 500
}

// The types of an IPRule.
const (
	RuleIP      = "ip"
	RuleCIDR    = "cidr"
	RuleCountry = "country" // ISO 3166-1 alpha-2
)

// IPRule is one line of an IPFilter; its JSON is that of the API.
type IPRule struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// BasicAuth asks for one user and password (RFC 7617).
type BasicAuth struct {
	Enabled bool   `json:"enabled"`
	User    string `json:"user,omitempty"`
	Hash    string `json:"hash,omitempty"` // bcrypt
}

// What happens to a request from a network of bots.
const (
	BotBlock    = "block"    // 403
	BotTarpit   = "tarpit"   // 200, a few bytes a second
	BotDrop     = "drop"     // the connection ends without an answer
	BotGarbage  = "garbage"  // 200 and nonsense
	BotRedirect = "redirect" // 308 to URL
	BotCustom   = "custom"   // Status and Message
)

// BotBlocker refuses requests from networks that are known for bots.
type BotBlocker struct {
	Enabled bool   `json:"enabled"`
	Mode    string `json:"mode"`
	URL     string `json:"url,omitempty"`
	Message string `json:"message,omitempty"` // at most 500 characters
	Status  int    `json:"status,omitempty"`  // 100-599
}

// RateLimit bounds the requests of one client address to one route, in a sliding
// window.
type RateLimit struct {
	Enabled  bool          `json:"enabled"`
	Requests int           `json:"requests"` // 1-100000
	Window   time.Duration `json:"window"`   // 1 s, 1 min, 5 min or 1 h
}

// rateWindows are the windows of a RateLimit as the API spells them.
var rateWindows = map[string]time.Duration{"1s": time.Second, "1m": time.Minute, "5m": 5 * time.Minute, "1h": time.Hour}

// ParseRateWindow reads a window of a RateLimit.
func ParseRateWindow(s string) (time.Duration, error) {
	d, ok := rateWindows[s]
	if !ok {
		return 0, Invalid("rate_limit_window", "must be 1s, 1m, 5m or 1h")
	}
	return d, nil
}

// RateWindow is the inverse of ParseRateWindow.
func RateWindow(d time.Duration) string {
	for s, w := range rateWindows {
		if w == d {
			return s
		}
	}
	return "1m"
}

// ClientTLS asks clients for a certificate that one of these authorities issued.
type ClientTLS struct {
	Enabled bool   `json:"enabled"`
	CA      string `json:"ca,omitempty"` // PEM, one or more certificates
}

// Headers are fields that are set on their way to the backend and back; the JSON
// is that of the API.
type Headers struct {
	Request  []HeaderField `json:"request"`
	Response []HeaderField `json:"response"`
}

// HeaderField is one of them: Name at most 256 characters, Value 1 to 4096 bytes.
type HeaderField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Backend is one of several targets of a route; its JSON is that of the API.
type Backend struct {
	Peer   PeerID `json:"peer_id"`
	Port   uint16 `json:"port"`
	Weight int    `json:"weight"` // 1-1000
}

// Sticky keeps a client at one of several backends.
type Sticky struct {
	Enabled bool          `json:"enabled"`
	Cookie  string        `json:"cookie"`
	TTL     time.Duration `json:"ttl"`
}

// Retry sends a request again that failed before it reached its backend, or that
// may be sent twice and was answered with one of Statuses.
type Retry struct {
	Enabled  bool  `json:"enabled"`
	Count    int   `json:"count"`    // 1-10 more attempts
	Statuses []int `json:"statuses"` // 100-599
}

// Mirror sends copies of requests to further peers.
type Mirror struct {
	Enabled bool           `json:"enabled"`
	Targets []MirrorTarget `json:"targets,omitempty"` // at most 5
}

// MirrorTarget is one of them; its JSON is that of the API.
type MirrorTarget struct {
	Peer PeerID `json:"peer_id"`
	Port uint16 `json:"port"`
}

// Path leads requests below a prefix of the path elsewhere than the route does:
// to another port or peer, or to a redirect. The longest prefix counts; it matches
// whole segments of the raw path.
type Path struct {
	Prefix string `json:"prefix"` // begins with /
	Strip  bool   `json:"strip,omitempty"`
	Peer   PeerID `json:"peer_id,omitempty"` // 0: the route's own target, at Port
	Port   uint16 `json:"port,omitempty"`

	Redirect string `json:"redirect,omitempty"` // absolute URL or path; instead of a target
	Status   int    `json:"status,omitempty"`   // of the redirect: 301, 302, 307 or 308
}

// Branding is how the sign-in page of a route looks.
type Branding struct {
	Title      string `json:"title,omitempty"`
	Text       string `json:"text,omitempty"`
	Color      string `json:"color,omitempty"`      // a CSS colour
	Background string `json:"background,omitempty"` // a CSS colour or gradient
	Logo       string `json:"logo,omitempty"`       // a picture, by its name in the store
	Image      string `json:"image,omitempty"`      // likewise, over Background
}
