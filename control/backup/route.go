package backup

import "gatecontrol/model"

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
	BotBlockerCount   int     `json:"bot_blocker_count"`
	BotBlockerConfig  *string `json:"bot_blocker_config"`

	TargetKind    string  `json:"target_kind"`
	TargetLANHost *string `json:"target_lan_host"`
	TargetLANPort *int64  `json:"target_lan_port"`
	WOLEnabled    bit     `json:"wol_enabled"`
	WOLMAC        *string `json:"wol_mac"`

	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`

	PeerName       *string  `json:"peer_name"`
	TargetPeerName *string  `json:"target_peer_name"`
	ACLPeerNames   []string `json:"acl_peer_names"`
	UserNames      []string `json:"user_names"` // whom user_ids means
}

// routeDefaults are the columns of a route that asks for nothing.
func routeDefaults() Route {
	return Route{
		ExternalEnabled:   true,
		RateLimitRequests: 100, RateLimitWindow: "1m",
		RetryCount: 3, RetryMatchStatus: "502,503,504",
		StickyCookieName: "gc_sticky", StickyCookieTTL: "3600",
		CircuitBreakerThreshold: 5, CircuitBreakerTimeout: 30,
		BotBlockerMode: "block", TargetKind: "peer",
		ACLPeerNames: []string{}, UserNames: []string{},
	}
}
