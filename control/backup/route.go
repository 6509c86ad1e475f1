package backup

import (
	"strconv"
	"time"

	"gatecontrol/model"
)

// Route is one entry of routes: every column that GateControl's table has, those
// that this server has no use for with their default. A file that lacks one
// cannot be taken up there.
type Route struct {
	Domain       *string         `json:"domain"`
	TargetIP     string          `json:"target_ip"`
	TargetPort   uint16          `json:"target_port"`
	Description  *string         `json:"description"`
	HTTPSEnabled bit             `json:"https_enabled"`
	BackendHTTPS bit             `json:"backend_https"`
	Enabled      bit             `json:"enabled"`
	RouteType    model.RouteType `json:"route_type"`
	L4Protocol   *string         `json:"l4_protocol"`
	L4ListenPort *string         `json:"l4_listen_port"`
	L4TLSMode    *string         `json:"l4_tls_mode"`

	BasicAuthEnabled      bit     `json:"basic_auth_enabled"`
	BasicAuthUser         *string `json:"basic_auth_user"`
	BasicAuthPasswordHash *string `json:"basic_auth_password_hash"`
	IPFilterEnabled       bit     `json:"ip_filter_enabled"`
	IPFilterMode          *string `json:"ip_filter_mode"`
	IPFilterRules         *string `json:"ip_filter_rules"`
	ACLEnabled            bit     `json:"acl_enabled"`
	ExternalEnabled       bit     `json:"external_enabled"`
	UserIDs               *string `json:"user_ids"`

	BrandingTitle   *string `json:"branding_title"`
	BrandingText    *string `json:"branding_text"`
	BrandingLogo    *string `json:"branding_logo"`
	BrandingColor   *string `json:"branding_color"`
	BrandingBg      *string `json:"branding_bg"`
	BrandingBgImage *string `json:"branding_bg_image"`

	MonitoringEnabled      bit     `json:"monitoring_enabled"`
	MonitoringStatus       *string `json:"monitoring_status"`
	MonitoringLastCheck    *string `json:"monitoring_last_check"`
	MonitoringLastChange   *string `json:"monitoring_last_change"`
	MonitoringResponseTime *int64  `json:"monitoring_response_time"`

	CompressEnabled   bit     `json:"compress_enabled"`
	CustomHeaders     *string `json:"custom_headers"`
	RateLimitEnabled  bit     `json:"rate_limit_enabled"`
	RateLimitRequests int     `json:"rate_limit_requests"`
	RateLimitWindow   string  `json:"rate_limit_window"`
	RetryEnabled      bit     `json:"retry_enabled"`
	RetryCount        int     `json:"retry_count"`
	RetryMatchStatus  string  `json:"retry_match_status"`

	Backends         *string `json:"backends"`
	StickyEnabled    bit     `json:"sticky_enabled"`
	StickyCookieName string  `json:"sticky_cookie_name"`
	StickyCookieTTL  string  `json:"sticky_cookie_ttl"`

	CircuitBreakerEnabled   bit     `json:"circuit_breaker_enabled"`
	CircuitBreakerThreshold int     `json:"circuit_breaker_threshold"`
	CircuitBreakerTimeout   int     `json:"circuit_breaker_timeout"`
	MirrorEnabled           bit     `json:"mirror_enabled"`
	MirrorTargets           *string `json:"mirror_targets"`
	DebugEnabled            bit     `json:"debug_enabled"`

	BotBlockerEnabled bit     `json:"bot_blocker_enabled"`
	BotBlockerMode    string  `json:"bot_blocker_mode"`
	BotBlockerCount   uint64  `json:"bot_blocker_count"`
	BotBlockerConfig  *string `json:"bot_blocker_config"`

	TargetKind    string  `json:"target_kind"`
	TargetLANHost *string `json:"target_lan_host"`
	TargetLANPort *uint16 `json:"target_lan_port"`
	WOLEnabled    bit     `json:"wol_enabled"`
	WOLMAC        *string `json:"wol_mac"`

	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`

	PeerName       *string  `json:"peer_name"`
	TargetPeerName *string  `json:"target_peer_name"`
	ACLPeerNames   []string `json:"acl_peer_names"`
	UserNames      []string `json:"user_names"` // whom user_ids means

	BlockAction      string  `json:"external_block_action"`
	BlockBody        *string `json:"external_block_body"`
	BlockURL         *string `json:"external_block_redirect_url"`
	ClientTLSEnabled bit     `json:"client_tls_enabled"`
	ClientTLSCA      *string `json:"client_tls_ca"`
	Paths            *string `json:"paths"`
	AccessRules      *string `json:"access_rules"`
}

// names are what records are called that others refer to.
type names struct {
	peers map[model.PeerID]string
	users map[model.UserID]string
}

// setOptions fills in what a web route has besides its target. The lists that
// name peers by number, as GateControl's do, have the name of each beside it.
func (out *Route) setOptions(r *model.Route, n *names) {
	w := r.Options()
	out.BasicAuthEnabled, out.BasicAuthUser, out.BasicAuthPasswordHash = bit(w.BasicAuth.Enabled), orNull(w.BasicAuth.User), orNull(w.BasicAuth.Hash)
	out.IPFilterEnabled, out.IPFilterMode, out.IPFilterRules = bit(w.IPFilter.Enabled), orNull(w.IPFilter.Mode), model.ListText(w.IPFilter.Rules)
	out.ACLEnabled, out.ExternalEnabled = bit(w.ACL.Enabled), bit(w.External)
	out.BlockAction, out.BlockBody, out.BlockURL = w.Block.Action, orNull(w.Block.Body), orNull(w.Block.URL)
	out.ClientTLSEnabled, out.ClientTLSCA = bit(w.ClientTLS.Enabled), orNull(w.ClientTLS.CA)
	out.UserIDs = model.ListText(w.Users)
	out.ACLPeerNames, out.UserNames = []string{}, []string{}
	for _, id := range w.ACL.Peers {
		if name := n.peers[id]; name != "" {
			out.ACLPeerNames = append(out.ACLPeerNames, name)
		}
	}
	for _, id := range w.Users {
		if name := n.users[model.UserID(id)]; name != "" {
			out.UserNames = append(out.UserNames, name)
		}
	}
	out.BrandingTitle, out.BrandingText = orNull(w.Branding.Title), orNull(w.Branding.Text)
	out.BrandingColor, out.BrandingBg = orNull(w.Branding.Color), orNull(w.Branding.Background)
	// Names alone: the format has no room for the pictures, of which a few would
	// make a file that is too large to be taken up.
	out.BrandingLogo, out.BrandingBgImage = orNull(w.Branding.Logo), orNull(w.Branding.Image)

	out.CompressEnabled, out.CustomHeaders, out.DebugEnabled = bit(w.Compress), w.Headers.Text(), bit(w.Trace)
	out.RateLimitEnabled, out.RateLimitRequests, out.RateLimitWindow = bit(w.RateLimit.Enabled), w.RateLimit.Requests, model.RateWindow(w.RateLimit.Window)
	out.RetryEnabled, out.RetryCount, out.RetryMatchStatus = bit(w.Retry.Enabled), w.Retry.Count, w.Retry.StatusText()
	out.CircuitBreakerEnabled, out.CircuitBreakerThreshold = bit(w.Breaker.Enabled), w.Breaker.Threshold
	out.CircuitBreakerTimeout = int(w.Breaker.Timeout / time.Second)
	out.BotBlockerEnabled, out.BotBlockerMode, out.BotBlockerConfig = bit(w.Bots.Enabled), w.Bots.Mode, w.Bots.ConfigText()

	out.StickyEnabled, out.StickyCookieName = bit(w.Sticky.Enabled), w.Sticky.Cookie
	out.StickyCookieTTL = strconv.Itoa(int(w.Sticky.TTL / time.Second))
	backends := make([]namedBackend, len(w.Backends))
	for i, b := range w.Backends {
		backends[i] = namedBackend{b, n.peers[b.Peer]}
	}
	mirrors := make([]namedMirror, len(w.Mirror.Targets))
	for i, m := range w.Mirror.Targets {
		mirrors[i] = namedMirror{m, n.peers[m.Peer]}
	}
	paths := make([]namedPath, len(w.Paths))
	for i, p := range w.Paths {
		paths[i] = namedPath{p, n.peers[p.Peer]}
	}
	out.Backends, out.Paths = model.ListText(backends), model.ListText(paths)
	out.MirrorEnabled, out.MirrorTargets = bit(w.Mirror.Enabled), model.ListText(mirrors)
}

type (
	namedBackend struct {
		model.Backend
		PeerName string `json:"peer_name"`
	}
	namedMirror struct {
		model.MirrorTarget
		PeerName string `json:"peer_name"`
	}
	namedPath struct {
		model.Path
		PeerName string `json:"peer_name,omitempty"`
	}
)
