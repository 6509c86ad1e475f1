package app

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatecontrol/model"
	"gatecontrol/proxy/certs"
)

// Options are everything that is decided before the store is open. Names and
// defaults of the variables are GateControl's, so that an existing environment
// file works; each is also a flag, and GC_X_FILE names a file that holds the
// value of GC_X.
type Options struct {
	DataDir  string `name:"data-dir" env:"GC_DATA_DIR,GC_DATA_PATH" default:"./data" help:"Directory for everything that is kept."`
	LogLevel string `name:"log-level" env:"GC_LOG_LEVEL" default:"info" enum:"silent,fatal,error,warn,info,debug,trace" help:"Least severity to log: ${enum}."`

	Host         string   `name:"host" env:"GC_HOST" default:"127.0.0.1" help:"Address of the plain admin port."`
	Port         uint16   `name:"port" env:"GC_PORT" default:"3000" help:"The plain admin port."`
	BaseURL      string   `name:"base-url" env:"GC_BASE_URL" placeholder:"http://localhost:3000" help:"Where people and clients reach the administration."`
	AllowedHosts []string `name:"allowed-hosts" env:"GC_ALLOWED_HOSTS" help:"More names under which the admin port answers."`
	HTTPListen   string   `name:"http-listen" env:"GC_HTTP_LISTEN" placeholder:":80" help:"Plain web port; :8080 where binding :80 is not permitted."`
	HTTPSListen  string   `name:"https-listen" env:"GC_HTTPS_LISTEN" placeholder:":443" help:"TLS web port; :8443 where binding :443 is not permitted."`
	HTTP3        bool     `name:"http3" env:"GC_HTTP3" default:"true" negatable:"" help:"Serve HTTP/3 on the UDP port of the same number as the TLS web port."`
	TLSIssuer    string   `name:"tls-issuer" env:"GC_TLS_ISSUER" default:"auto" enum:"auto,internal,acme" help:"Who issues certificates: public authorities for public names and the internal one for others (auto), the internal one alone, or acme for all names with a dot."`

	ACMEEmail   string       `name:"acme-email" env:"GC_ACME_EMAIL,GC_CADDY_EMAIL" help:"E-mail address of the account at the authorities."`
	ACMECA      []string     `name:"acme-ca" env:"GC_ACME_CA,GC_CADDY_ACME_CA" placeholder:"Let's Encrypt" help:"Directories of authorities that speak ACME, tried in this order."`
	ACMECARoot  string       `name:"acme-ca-root" env:"GC_ACME_CA_ROOT" help:"PEM file with the root certificate of a private authority."`
	ACMEStaging bool         `name:"acme-staging" env:"GC_ACME_STAGING" help:"Ask Let's Encrypt for certificates to try things out with, which nobody trusts."`
	ACMEKeyID   string       `name:"acme-eab-key-id" env:"GC_ACME_EAB_KEY_ID" help:"Key id for authorities that want an account of their own."`
	ACMEKey     model.Secret `name:"acme-eab-key" env:"GC_ACME_EAB_KEY" help:"The key for that, in base64url."`

	TrustedProxies []netip.Prefix `name:"trusted-proxies" env:"GC_TRUSTED_PROXIES" help:"Networks whose X-Forwarded headers are believed."`

	PublicResolvers []string `name:"public-resolvers" env:"GC_PUBLIC_RESOLVERS" default:"1.1.1.1,9.9.9.9,8.8.8.8" help:"Resolvers outside of this network, which are asked where the domain of a route leads."`

	GeoIPDB    string `name:"geoip-db" env:"GC_GEOIP_DB" help:"Database of countries in MaxMind's format, for country rules; read again when it changes."`
	BotRanges  string `name:"bot-blocker-ranges" env:"GC_BOT_BLOCKER_RANGES" placeholder:"every list" help:"Networks that bot blockers refuse: names of lists and networks, with commas between them."`
	BotRefresh bool   `name:"bot-blocker-refresh" env:"GC_BOT_BLOCKER_REFRESH" help:"Fetch the lists of networks of bots from who publishes them, once a day."`
	AccessLog  string `name:"access-log" env:"GC_ACCESS_LOG" placeholder:"access.log in the data directory" help:"File with one line per request; off for none."`

	AdminUser      string       `name:"admin-user" env:"GC_ADMIN_USER" default:"admin" help:"Administrator made at the first start."`
	AdminPassword  model.Secret `name:"admin-password" env:"GC_ADMIN_PASSWORD" help:"Password for it; without one, one is made up and printed once."`
	EncryptionKey  model.Secret `name:"encryption-key" env:"GC_ENCRYPTION_KEY" help:"64 hex characters that seal secrets; without them, a key file is kept in the data directory."`
	SessionMaxAge  Millis       `name:"session-max-age" env:"GC_SESSION_MAX_AGE" default:"86400000" help:"Milliseconds until an idle login ends."`
	RateLimitLogin int          `name:"rate-limit-login" env:"GC_RATE_LIMIT_LOGIN" default:"10" help:"Logins from one address in 15 minutes."`
	RateLimitAPI   int          `name:"rate-limit-api" env:"GC_RATE_LIMIT_API" default:"1000" help:"API requests of one login or token in 15 minutes."`

	WGHost       string       `name:"wg-host" env:"GC_WG_HOST" default:"gate.example.com" help:"Name or address under which peers reach this server."`
	WGPort       uint16       `name:"wg-port" env:"GC_WG_PORT" default:"51820" help:"UDP port of WireGuard."`
	WGSubnet     netip.Prefix `name:"wg-subnet" env:"GC_WG_SUBNET" default:"10.8.0.0/24" help:"IPv4 network of the tunnel."`
	WGGateway    netip.Addr   `name:"wg-gateway-ip" env:"GC_WG_GATEWAY_IP" default:"10.8.0.1" help:"This server's address in it."`
	WGSubnet6    string       `name:"wg-subnet6" env:"GC_WG_SUBNET6" help:"IPv6 network of the tunnel beside it, such as fd12:3456:789a::/64, or auto; without it there is no IPv6."`
	WGDNS        string       `name:"wg-dns" env:"GC_WG_DNS" placeholder:"the gateway address" help:"Resolvers written into client configs."`
	WGAllowedIPs string       `name:"wg-allowed-ips" env:"GC_WG_ALLOWED_IPS" default:"0.0.0.0/0" help:"AllowedIPs written into client configs."`
	WGKeepalive  uint16       `name:"wg-persistent-keepalive" env:"GC_WG_PERSISTENT_KEEPALIVE" default:"25" help:"Keepalive seconds of new peers, 0 is off."`
	WGMTU        int          `name:"wg-mtu" env:"GC_WG_MTU" default:"1420" help:"MTU inside the tunnel."`
	WGPrivateKey model.Secret `name:"wg-private-key" env:"GC_WG_PRIVATE_KEY" help:"Brings an existing server key."`

	DNSEnabled   bool     `name:"dns" env:"GC_DNS_ENABLED" default:"true" negatable:"" help:"Resolve names inside the tunnel."`
	DNSDomain    string   `name:"dns-domain" env:"GC_DNS_DOMAIN" default:"gc.internal" help:"Zone of the names of peers."`
	DNSUpstreams []string `name:"dns-upstreams" env:"GC_DNS_UPSTREAMS,GC_DNSMASQ_UPSTREAMS" default:"1.1.1.1,8.8.8.8" help:"Who answers other names: address, tls://host or https://host/path."`
	Exit         bool     `name:"exit" env:"GC_EXIT" default:"true" negatable:"" help:"Let peers reach the internet through this server."`
	ExitPrivate  string   `name:"exit-private-networks" env:"GC_EXIT_PRIVATE_NETWORKS" help:"Private networks that peers may reach through this server."`
	RedirectDNS  bool     `name:"redirect-dns" env:"GC_REDIRECT_DNS" help:"Answer questions of peers to other resolvers."`

	L4BlockedPorts []uint16 `name:"l4-blocked-ports" env:"GC_L4_BLOCKED_PORTS" default:"22,53,80,443,2019,3000,51820" help:"Ports that port routes cannot take."`
	L4MaxPortRange int      `name:"l4-max-port-range" env:"GC_L4_MAX_PORT_RANGE" default:"100" help:"Most ports of one port route."`

	TrafficInterval    Millis `name:"traffic-interval" env:"GC_TRAFFIC_INTERVAL" default:"60000" help:"Milliseconds between traffic samples."`
	MonitorHTTPTimeout Millis `name:"monitor-http-timeout" env:"GC_MONITOR_HTTP_TIMEOUT" default:"10000" help:"Milliseconds for one check of a web route."`
	MonitorTCPTimeout  Millis `name:"monitor-tcp-timeout" env:"GC_MONITOR_TCP_TIMEOUT" default:"5000" help:"Milliseconds for one check of a TCP route."`
	ShutdownTimeout    Millis `name:"shutdown-timeout" env:"GC_SHUTDOWN_TIMEOUT" default:"30000" help:"Milliseconds for requests in flight at the end."`
}

// Millis is a number of milliseconds, as GateControl's variables spell time.
type Millis int64

// Duration returns m as a duration.
func (m Millis) Duration() time.Duration { return time.Duration(m) * time.Millisecond }

// The web ports that are taken where 80 and 443 may not be bound.
const (
	fallbackHTTP  = ":8080"
	fallbackHTTPS = ":8443"
)

// minMTU6 is what IPv6 needs (RFC 8200 section 5).
const minMTU6 = 1280

// placeholderHost is the default of GC_WG_HOST, with which no client connects.
const placeholderHost = "gate.example.com"

// checked are Options, checked and in the types that the parts want.
type checked struct {
	Options
	baseURL    *url.URL
	adminHosts []string // normalised
	dns        []netip.Addr
	allowedIPs []netip.Prefix
	exit       model.Exit
	wgKey      model.PrivateKey // zero: none brought
	cas        []certs.CA       // that are asked, in their order
	acmeRoots  *x509.CertPool   // nil: those of the system
	resolvers  []string         // outside, as host:port
}

// check names each impossible setting by its variable.
func (o Options) check() (*checked, error) {
	s := &checked{Options: o}
	var bad model.Invalids
	s.checkNetwork(&bad)
	s.checkAdmin(&bad)
	s.checkIssuer(&bad)
	for _, n := range []struct {
		name     string
		v        int64
		min, max int64
	}{
		{"GC_WG_MTU", int64(o.WGMTU), 576, 9000},
		{"GC_SESSION_MAX_AGE", int64(o.SessionMaxAge), 60_000, 365 * 86_400_000},
		{"GC_RATE_LIMIT_LOGIN", int64(o.RateLimitLogin), 1, 1_000_000},
		{"GC_RATE_LIMIT_API", int64(o.RateLimitAPI), 1, 1_000_000_000},
		{"GC_L4_MAX_PORT_RANGE", int64(o.L4MaxPortRange), 1, 65_535},
		{"GC_TRAFFIC_INTERVAL", int64(o.TrafficInterval), 1_000, 86_400_000},
		{"GC_MONITOR_HTTP_TIMEOUT", int64(o.MonitorHTTPTimeout), 100, 60_000},
		{"GC_MONITOR_TCP_TIMEOUT", int64(o.MonitorTCPTimeout), 100, 60_000},
		{"GC_SHUTDOWN_TIMEOUT", int64(o.ShutdownTimeout), 0, 3_600_000},
	} {
		if n.v < n.min || n.v > n.max {
			bad.Add(n.name, "must be %d to %d, not %d", n.min, n.max, n.v)
		}
	}
	return s, bad.Err()
}

func (s *checked) checkNetwork(bad *model.Invalids) {
	if !s.WGSubnet.Addr().Is4() || s.WGSubnet.Bits() < 8 || s.WGSubnet.Bits() > 30 {
		bad.Add("GC_WG_SUBNET", "must be an IPv4 network from /8 to /30, such as 10.8.0.0/24")
	} else if s.WGSubnet = s.WGSubnet.Masked(); !s.WGSubnet.Contains(s.WGGateway) || s.WGGateway == s.WGSubnet.Addr() {
		bad.Add("GC_WG_GATEWAY_IP", "must be a host address inside GC_WG_SUBNET %s", s.WGSubnet)
	}
	if s.WGSubnet6 != "" {
		if _, err := model.ParseSubnet6("GC_WG_SUBNET6", s.WGSubnet6, s.WGSubnet, model.PublicKey{}); err != nil {
			bad.AddError(err)
		}
		if s.WGMTU < minMTU6 {
			bad.Add("GC_WG_MTU", "must be at least %d with GC_WG_SUBNET6", minMTU6)
		}
	}
	if _, err := netip.ParseAddr(s.WGHost); err != nil {
		if host, ok := model.NormalizeHost(s.WGHost); !ok || model.HostPort([]byte(s.WGHost)) != 0 {
			bad.Add("GC_WG_HOST", "must be a host name or an IP address, without a port")
		} else {
			s.WGHost = host
		}
	}
	if s.WGDNS == "" {
		s.WGDNS = s.WGGateway.String()
	}
	var err error
	if s.dns, err = model.ParseDNSList("GC_WG_DNS", s.WGDNS); err != nil {
		bad.AddError(err)
	}
	for part := range strings.SplitSeq(s.WGAllowedIPs, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			bad.Add("GC_WG_ALLOWED_IPS", "must be a comma-separated list of networks such as 0.0.0.0/0")
			break
		}
		s.allowedIPs = append(s.allowedIPs, p)
	}
	s.exit = model.Exit{Enabled: s.Exit, RedirectDNS: s.RedirectDNS}
	if s.exit.PrivateNetworks, err = model.ParseNetworks("GC_EXIT_PRIVATE_NETWORKS", s.ExitPrivate); err != nil {
		bad.AddError(err)
	}
	if s.WGPrivateKey != "" {
		if s.wgKey, err = model.ParsePrivateKey(strings.TrimSpace(s.WGPrivateKey.Reveal())); err != nil {
			bad.Add("GC_WG_PRIVATE_KEY", "%v", err)
		}
	}
	for _, text := range s.PublicResolvers {
		resolver, err := parseResolver(text)
		if err != nil {
			bad.Add("GC_PUBLIC_RESOLVERS", "must be a comma-separated list of addresses, with a port where that is not 53")
			break
		}
		s.resolvers = append(s.resolvers, resolver)
	}
	if len(s.resolvers) > maxResolvers {
		bad.Add("GC_PUBLIC_RESOLVERS", "must be at most %d", maxResolvers)
	}
	if s.DNSDomain, err = model.ParseDomain(s.DNSDomain); err != nil {
		bad.Add("GC_DNS_DOMAIN", "must be a domain such as gc.internal")
	}
}

func (s *checked) checkAdmin(bad *model.Invalids) {
	if s.BaseURL == "" {
		s.BaseURL = "http://localhost"
		if s.Port != 0 { // else the system picks one, which nobody knows yet
			s.BaseURL += fmt.Sprintf(":%d", s.Port)
		}
	}
	u, err := url.Parse(s.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		bad.Add("GC_BASE_URL", "must be http:// or https:// and a host, without a path")
		return
	}
	host, ok := model.NormalizeHost(u.Host)
	if !ok {
		bad.Add("GC_BASE_URL", "must name a host by its DNS name or address")
		return
	}
	s.baseURL, s.adminHosts = u, []string{host}
	if host == "localhost" {
		s.adminHosts = append(s.adminHosts, "127.0.0.1")
	}
	if _, err := model.ParseUsername("GC_ADMIN_USER", s.AdminUser); err != nil {
		bad.AddError(err)
	}
	if s.AdminPassword != "" {
		if err := model.CheckPassword("GC_ADMIN_PASSWORD", s.AdminPassword.Reveal()); err != nil {
			bad.AddError(err)
		}
	}
}

// subnets are the networks of the tunnel of the server with this key.
func (s *checked) subnets(server model.PublicKey) (model.Subnets, error) {
	n := model.Subnets{V4: s.WGSubnet}
	if s.WGSubnet6 == "" {
		return n, nil
	}
	var err error
	n.V6, err = model.ParseSubnet6("GC_WG_SUBNET6", s.WGSubnet6, s.WGSubnet, server)
	return n, err
}

// clientNetworks is what client configs send into the tunnel: the configured
// networks and, if none of those is of IPv6 although the tunnel has it, all of
// that where they have all of IPv4, in one piece or in the two halves that leave
// a default route alone, else the network of the tunnel.
func (s *checked) clientNetworks(subnet6 netip.Prefix) string {
	list := slices.Clone(s.allowedIPs)
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	if subnet6.IsValid() && !slices.ContainsFunc(list, is6) {
		low, high := netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")
		if slices.Contains(list, netip.PrefixFrom(netip.IPv4Unspecified(), 0)) || slices.Contains(list, low) && slices.Contains(list, high) {
			subnet6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		list = append(list, subnet6)
	}
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

// endpoint is what client configs name: the host and the port that the device
// really listens on.
func (s *checked) endpoint(port uint16) string {
	return net.JoinHostPort(s.WGHost, strconv.Itoa(int(port)))
}

// publicAddrs are the addresses that peers know this server by and that no
// interface of this host may have, as behind a NAT.
func (s *checked) publicAddrs() []netip.Addr {
	if a, err := netip.ParseAddr(s.WGHost); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	return nil
}

// knownAs are the names and addresses by which this server is known outside, the
// one that counts first.
func (s *checked) knownAs() []string {
	if s.WGHost == placeholderHost {
		return []string{s.baseURL.Hostname()}
	}
	return []string{s.WGHost, s.baseURL.Hostname()}
}

// maxResolvers bounds how many are asked at once.
const maxResolvers = 8

// parseResolver reads an address, with or without a port.
func parseResolver(text string) (string, error) {
	text = strings.TrimSpace(text)
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, 53).String(), nil
	}
	ap, err := netip.ParseAddrPort(text)
	if err == nil && ap.Port() == 0 {
		err = errors.New("there is no port 0")
	}
	return ap.String(), err
}

// accessLog is the path of the access log, empty if it is off.
func (s *checked) accessLog() string {
	switch s.AccessLog {
	case "off":
		return ""
	case "":
		return filepath.Join(s.DataDir, "access.log")
	}
	return s.AccessLog
}

// blockedPorts are those that port routes cannot take: the configured ones and
// our own.
func (s *checked) blockedPorts(own ...uint16) []uint16 {
	list := append(slices.Clone(s.L4BlockedPorts), own...)
	slices.Sort(list)
	return slices.Compact(list)
}
