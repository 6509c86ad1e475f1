// Package api is the way in for people and programs: an HTTP API under
// /api/v1, the pages for signing in, and the local socket of the command line.
// Every operation is one row of the table in endpoints.go; routing, access,
// limits, decoding and the OpenAPI document all come from there. Of ours it
// imports model, telemetry and the services of control, but not control/reconcile.
//
// An operation passes, in this order: request id and recovery, security
// headers, host check, body limit, credential, cross-site checks, scope, rate
// limit, handler.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"gatecontrol/control/accounts"
	"gatecontrol/control/backup"
	"gatecontrol/control/certs"
	"gatecontrol/control/events"
	"gatecontrol/control/peers"
	"gatecontrol/control/routes"
	"gatecontrol/control/settings"
	"gatecontrol/control/windows"
	"gatecontrol/model"
	"gatecontrol/telemetry"
)

// Options are what a Server needs. Every service and func is required.
type Options struct {
	Log      *slog.Logger
	Accounts *accounts.Service
	Peers    *peers.Service
	Routes   *routes.Service
	Windows  *windows.Service
	Settings *settings.Service
	Backup   *backup.Service
	Certs    *certs.Service
	Events   *events.Log

	WG      func() WG
	Proxy   func() Proxy
	Health  func() Health
	Traffic func() Traffic
	Reload  func(context.Context) error // applies what is stored anew

	Conditions func() []telemetry.Condition // that last, in the order in which they are listed

	// AccessLog returns requests to the proxy, newest first, and their number in all.
	AccessLog func(q telemetry.AccessQuery, limit, offset int) ([]telemetry.AccessEntry, int, error)
	// Trace returns the last requests to a route since a time, newest first.
	Trace func(id model.RouteID, limit int, since time.Time) *model.Trace
	// Explain tells what the proxy would do with a request.
	Explain func(model.ExplainRequest) (*model.Explanation, error)

	// Metrics are those of the proxy.
	Metrics func() []telemetry.Metric

	DNS          DNS
	BaseURL      *url.URL
	AllowedHosts []string // Host values served besides that of BaseURL, localhost and addresses
	AdminUser    string   // whose password the local socket resets
	Version      string
	LoginLimit   int           // sign-ins of one address in 15 minutes
	APILimit     int           // requests of one address with a login, or of one token, in 15 minutes
	Clients      model.Clients // tells what one address is there
	Now          func() time.Time
}

// WG is what the tunnel says of itself.
type WG struct {
	Running    bool
	PublicKey  model.PublicKey
	ListenPort uint16
	Peers      []model.PeerStatus
}

// Proxy is what the proxy says of itself. Counts are of routes that serve.
type Proxy struct {
	Running    bool
	Started    time.Time
	HTTPRoutes int
	L4Routes   int
	HTTPPort   uint16 // of this host
	HTTPSPort  uint16
}

// Health tells which parts work.
type Health struct{ DB, WireGuard, Proxy bool }

// Traffic is since 00:00 UTC, in bytes, and at the moment, in bytes per second.
// Upload is what this server sent to peers.
type Traffic struct {
	TodayUpload, TodayDownload uint64
	UploadRate, DownloadRate   uint64
}

// DNS is the internal zone.
type DNS struct {
	Enabled bool
	Domain  string
	Gateway netip.Addr // this server's tunnel address
}

// Server answers requests. Its handlers may be used at the same time.
type Server struct {
	Options
	log      *slog.Logger
	mux      *http.ServeMux
	table    []*operation
	document []byte // OpenAPI
	hosts    map[string]bool
	origin   string // of BaseURL
	started  time.Time
	login    *limiter
	api      *limiter
	uploads  *limiter // of files
	scrapes  *limiter // of metrics
	formKey  []byte   // signs the CSRF values of the sign-in form; forms end with the process
	pages    *pages
}

// New checks o and builds the table. An operation without a rule of access is
// an error.
func New(o Options) (*Server, error) {
	if o.Log == nil || o.Accounts == nil || o.Peers == nil || o.Routes == nil || o.Settings == nil || o.Backup == nil || o.Certs == nil || o.Events == nil ||
		o.WG == nil || o.Proxy == nil || o.Health == nil || o.Traffic == nil || o.Reload == nil || o.Conditions == nil || o.AccessLog == nil || o.Trace == nil || o.Explain == nil || o.Metrics == nil || o.BaseURL == nil {
		return nil, errors.New("api: every service and func is required")
	}
	if o.LoginLimit < 1 || o.APILimit < 1 {
		return nil, errors.New("api: the rate limits must be at least 1")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		Options: o, log: o.Log, mux: http.NewServeMux(), started: o.Now(),
		hosts:   allowedHosts(o.BaseURL, o.AllowedHosts),
		origin:  originOf(o.BaseURL.Scheme, o.BaseURL.Host),
		login:   newLimiter(o.LoginLimit, limitWindow, o.Now),
		api:     newLimiter(o.APILimit, limitWindow, o.Now),
		uploads: newLimiter(uploadLimit, limitWindow, o.Now),
		scrapes: newLimiter(metricsLimit, time.Minute, o.Now),
		formKey: randomBytes(32),
	}
	s.scrapes.refusal = "rate_limited"
	var err error
	if s.pages, err = loadPages(); err != nil {
		return nil, err
	}
	s.table = s.operations()
	for _, op := range s.table {
		if err := op.check(); err != nil {
			return nil, err
		}
		s.mux.Handle(op.method+" "+op.path, s.serve(op))
	}
	s.mux.Handle("/", s.serve(nil))
	s.document, err = s.openAPI()
	return s, err
}

// Handler serves the plain admin port. What a client says about its own address
// or about the way it came is not believed.
func (s *Server) Handler() http.Handler { return s.guard(false) }

// ProxyHandler serves requests that our own proxy hands over in memory: it alone
// is believed about the client.
func (s *Server) ProxyHandler() http.Handler { return s.guard(true) }

func (s *Server) now() time.Time { return s.Now() }
