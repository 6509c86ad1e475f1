package api

import (
	"strconv"
	"time"

	"gatecontrol/control/routes"
	"gatecontrol/model"
)

// routeView is a route as the API shows one. Clients of GateControl read every
// member, so those of options that this server does not offer are there too,
// with the value that they have when nobody touched them (contract-routes
// section 2).
type routeView struct {
	ID             model.RouteID   `json:"id"`
	Domain         *string         `json:"domain"`
	RouteType      model.RouteType `json:"route_type"`
	Enabled        int01           `json:"enabled"`
	Description    *string         `json:"description"`
	TargetKind     string          `json:"target_kind"`
	TargetIP       string          `json:"target_ip"`
	TargetPort     uint16          `json:"target_port"`
	PeerID         *model.PeerID   `json:"peer_id"`
	TargetPeerID   *model.PeerID   `json:"target_peer_id"`
	TargetLANHost  *string         `json:"target_lan_host"`
	TargetLANPort  *uint16         `json:"target_lan_port"`
	WOLEnabled     int01           `json:"wol_enabled"`
	WOLMAC         *string         `json:"wol_mac"`
	TargetPoolID   *int64          `json:"target_pool_id"`
	OriginalPeerID *int64          `json:"original_peer_id"`

	HTTPSEnabled    int01   `json:"https_enabled"`
	BackendHTTPS    int01   `json:"backend_https"`
	CompressEnabled int01   `json:"compress_enabled"`
	ExternalEnabled int01   `json:"external_enabled"`
	BlockAction     string  `json:"external_block_action"`
	BlockBody       *string `json:"external_block_body"`
	BlockURL        *string `json:"external_block_redirect_url"`
	CustomHeaders   *string `json:"custom_headers"`
	Backends        *string `json:"backends"`
	StickyEnabled   int01   `json:"sticky_enabled"`
	StickyName      string  `json:"sticky_cookie_name"`
	StickyTTL       string  `json:"sticky_cookie_ttl"`
	Paths           *string `json:"paths"`

	BasicAuthEnabled int01          `json:"basic_auth_enabled"`
	BasicAuthUser    *string        `json:"basic_auth_user"`
	IPFilterEnabled  int01          `json:"ip_filter_enabled"`
	IPFilterMode     *string        `json:"ip_filter_mode"`
	IPFilterRules    *string        `json:"ip_filter_rules"`
	ACLEnabled       int01          `json:"acl_enabled"`
	ACLPeers         []model.PeerID `json:"acl_peers"`
	ACLPeerIDs       []model.PeerID `json:"acl_peer_ids"`
	UserIDs          *string        `json:"user_ids"`
	ClientTLSEnabled int01          `json:"client_tls_enabled"`
	ClientTLSCA      *string        `json:"client_tls_ca"`

	RateLimitEnabled  int01   `json:"rate_limit_enabled"`
	RateLimitRequests int     `json:"rate_limit_requests"`
	RateLimitWindow   string  `json:"rate_limit_window"`
	RetryEnabled      int01   `json:"retry_enabled"`
	RetryCount        int     `json:"retry_count"`
	RetryMatchStatus  string  `json:"retry_match_status"`
	RetryStatusCodes  string  `json:"retry_status_codes"`
	BreakerEnabled    int01   `json:"circuit_breaker_enabled"`
	BreakerThreshold  int     `json:"circuit_breaker_threshold"`
	BreakerTimeout    int     `json:"circuit_breaker_timeout"`
	BreakerStatus     string  `json:"circuit_breaker_status"`
	BreakerFailures   int     `json:"cb_failure_count"`
	BreakerOpenedAt   *string `json:"cb_opened_at"`

	MirrorEnabled     int01   `json:"mirror_enabled"`
	MirrorTargets     *string `json:"mirror_targets"`
	DebugEnabled      int01   `json:"debug_enabled"`
	BotBlockerEnabled int01   `json:"bot_blocker_enabled"`
	BotBlockerMode    string  `json:"bot_blocker_mode"`
	BotBlockerConfig  *string `json:"bot_blocker_config"`
	BotBlockerCount   uint64  `json:"bot_blocker_count"`

	MonitoringEnabled      int01   `json:"monitoring_enabled"`
	MonitoringStatus       *string `json:"monitoring_status"`
	MonitoringLastCheck    *string `json:"monitoring_last_check"`
	MonitoringLastChange   *string `json:"monitoring_last_change"`
	MonitoringResponseTime *int64  `json:"monitoring_response_time" doc:"Milliseconds, also of a check that failed"`
	MonitoringReason       *string `json:"monitoring_reason" doc:"Why the service is down"`

	L4Protocol   *string `json:"l4_protocol"`
	L4ListenPort *string `json:"l4_listen_port"`
	L4TLSMode    *string `json:"l4_tls_mode"`

	BrandingTitle   *string `json:"branding_title"`
	BrandingText    *string `json:"branding_text"`
	BrandingColor   *string `json:"branding_color"`
	BrandingBG      *string `json:"branding_bg"`
	BrandingLogo    *string `json:"branding_logo"`
	BrandingBGImage *string `json:"branding_bg_image"`

	PeerName          *string `json:"peer_name"`
	PeerIP            *string `json:"peer_ip"`
	PeerEnabled       *int01  `json:"peer_enabled"`
	TargetPeerName    *string `json:"target_peer_name"`
	TargetPeerIP      *string `json:"target_peer_ip"`
	TargetPeerEnabled *int01  `json:"target_peer_enabled"`

	AuthEnabled       int01   `json:"route_auth_enabled"`
	AuthType          *string `json:"route_auth_type"`
	Auth2FA           *int01  `json:"route_auth_2fa"`
	Auth2FAMethod     *string `json:"route_auth_2fa_method"`
	AuthSessionMaxAge *int64  `json:"route_auth_session_max_age"`

	BundleID       *int64  `json:"bundle_id"`
	BundleName     *string `json:"bundle_name"`
	BundleDomain   *string `json:"bundle_domain"`
	DomainIsPublic bool    `json:"domainIsPublic"`
	BaseUnverified bool    `json:"baseUnverified"`
	Problem        *string `json:"problem" doc:"Why the route does not serve, null if it does"`

	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
}

func viewRoute(r *routes.View) routeView {
	v := routeView{
		ID: r.ID, Domain: orNull(r.Domain), RouteType: r.Type, Enabled: bit(r.Enabled), Description: r.Description,
		TargetKind: r.Target.Kind(), TargetIP: r.Target.ShownAddr().String(), TargetPort: r.Target.Port,
		HTTPSEnabled: bit(r.ForceHTTPS), BackendHTTPS: bit(r.BackendHTTPS),
		BotBlockerCount: r.BotsBlocked,
		DomainIsPublic:  r.Domain != "" && model.DomainIsPublic(r.Domain), Problem: orNull(r.Error),
		CreatedAt: dt(r.CreatedAt), UpdatedAt: dt(r.UpdatedAt),
	}
	v.show(&r.Route)
	v.showCheck(r)
	if r.Target.Peer != 0 {
		v.PeerID = &r.Target.Peer
	}
	if p := r.Peer; p != nil {
		enabled := bit(p.Enabled)
		v.PeerName, v.PeerIP, v.PeerEnabled = orNull(p.Name), orNull(prefixes(p.AllowedIPs)), &enabled
		v.TargetIP = p.Address().String()
	}
	if g := r.Target.Gateway; g != nil {
		v.TargetLANHost, v.TargetLANPort = &g.Host, &g.Port
		if g.Peer != 0 {
			v.TargetPeerID = &g.Peer
		}
	}
	if p := r.Gateway; p != nil {
		enabled := bit(p.Enabled)
		v.TargetPeerName, v.TargetPeerIP, v.TargetPeerEnabled = orNull(p.Name), orNull(prefixes(p.AllowedIPs)), &enabled
	}
	if r.L4 != nil {
		v.L4Protocol, v.L4ListenPort, v.L4TLSMode = orNull(r.L4.Network), orNull(r.L4.Ports.String()), orNull(r.L4.TLS)
	}
	return v
}

// show fills in what a web route has besides its target, or a port route would
// have.
func (v *routeView) show(r *model.Route) {
	w := r.Options()
	v.ExternalEnabled, v.BlockAction = bit(w.External), w.Block.Action
	v.BlockBody, v.BlockURL = orNull(w.Block.Body), orNull(w.Block.URL)
	v.ACLEnabled, v.ACLPeers = bit(w.ACL.Enabled), append([]model.PeerID{}, w.ACL.Peers...)
	v.ACLPeerIDs = v.ACLPeers
	v.IPFilterEnabled, v.IPFilterMode, v.IPFilterRules = bit(w.IPFilter.Enabled), orNull(w.IPFilter.Mode), model.ListText(w.IPFilter.Rules)
	v.BasicAuthEnabled, v.BasicAuthUser = bit(w.BasicAuth.Enabled), orNull(w.BasicAuth.User)
	v.ClientTLSEnabled, v.ClientTLSCA = bit(w.ClientTLS.Enabled), orNull(w.ClientTLS.CA)

	v.RateLimitEnabled, v.RateLimitRequests = bit(w.RateLimit.Enabled), w.RateLimit.Requests
	v.RateLimitWindow = model.RateWindow(w.RateLimit.Window)
	v.RetryEnabled, v.RetryCount = bit(w.Retry.Enabled), w.Retry.Count
	v.RetryMatchStatus = w.Retry.StatusText()
	v.RetryStatusCodes = v.RetryMatchStatus
	v.BreakerEnabled, v.BreakerThreshold = bit(w.Breaker.Enabled), w.Breaker.Threshold
	v.BreakerTimeout = int(w.Breaker.Timeout / time.Second)

	v.CompressEnabled, v.DebugEnabled = bit(w.Compress), bit(w.Trace)
	v.CustomHeaders = w.Headers.Text()
	v.Backends, v.Paths = model.ListText(w.Backends), model.ListText(w.Paths)
	v.StickyEnabled, v.StickyName = bit(w.Sticky.Enabled), w.Sticky.Cookie
	v.StickyTTL = strconv.Itoa(int(w.Sticky.TTL / time.Second))
	v.MirrorEnabled, v.MirrorTargets = bit(w.Mirror.Enabled), model.ListText(w.Mirror.Targets)
	v.BotBlockerEnabled, v.BotBlockerMode = bit(w.Bots.Enabled), w.Bots.Mode
	v.BotBlockerConfig = w.Bots.ConfigText()
	v.UserIDs = model.ListText(w.Users)
	v.BrandingTitle, v.BrandingText = orNull(w.Branding.Title), orNull(w.Branding.Text)
	v.BrandingColor, v.BrandingBG = orNull(w.Branding.Color), orNull(w.Branding.Background)
	v.BrandingLogo, v.BrandingBGImage = orNull(w.Branding.Logo), orNull(w.Branding.Image)
}

// showCheck fills in what checks have found, and made of the breaker.
func (v *routeView) showCheck(r *routes.View) {
	v.MonitoringEnabled = bit(r.Monitored)
	w, c := r.Options(), &r.Check
	b := c.BreakerOf(&w.Breaker)
	v.BreakerStatus, v.BreakerFailures, v.BreakerOpenedAt = b.State, b.Failures, isoOrNull(b.OpenedAt)
	if c.Status == "" {
		return
	}
	took := c.Took.Milliseconds()
	v.MonitoringStatus, v.MonitoringResponseTime, v.MonitoringReason = &c.Status, &took, orNull(c.Reason)
	v.MonitoringLastCheck, v.MonitoringLastChange = isoOrNull(&c.At), isoOrNull(c.ChangedAt)
}

// Down reports whether the route is monitored and its service was not there. It is for
// pages.
func (v routeView) Down() bool {
	return v.MonitoringEnabled == 1 && v.MonitoringStatus != nil && *v.MonitoringStatus == model.StatusDown
}
