package proxy

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// gate is one step of the pipeline that may refuse a request. It is compiled when
// a Config is prepared and not changed afterwards; what it counts lives beside it
// in the Server. It decides before 100 (Continue) is sent and before any of the
// body is read.
type gate interface {
	// check returns nil to let the request pass.
	check(v *visit) *verdict
}

// admits asks the gates that go by the address alone, or not even by that, whether
// they let it in.
func (r *route) admits(addr netip.Addr) bool {
	for _, g := range r.gates {
		switch g.gate.(type) {
		case windowGate, insideGate, aclGate, *ipFilter:
			if g.check(&visit{addr: addr, dry: true}) != nil {
				return false
			}
		}
	}
	return true
}

// draft is a route that is being compiled.
type draft struct {
	srv        *Server
	snap, prev *snapshot // prev may be nil
	in         Route     // Options are never nil
	route      *route
}

// verdict refuses a request, and says how and why.
type verdict struct {
	status int
	reason string // for logs, traces and people who explain; nothing of the request is in it
	fields string // complete field lines beside the usual ones
	key    string // of the texts of the page, where the status does not tell
	closed *Closed
	body   []byte
	// answer is how the verdict is executed.
	answer func(v *visit, d *verdict)
}

// pageVerdict refuses with a page of ours.
func pageVerdict(status int, reason, fields string) *verdict {
	return &verdict{status: status, reason: reason, fields: fields, answer: answerPage}
}

func answerPage(v *visit, d *verdict) {
	v.srv.show(v.ctx, notice{status: d.status, key: d.key, fields: d.fields, route: v.route, closed: d.closed})
}

// bareVerdict refuses with body as it is, which may be empty.
func bareVerdict(status int, reason, fields string, body []byte) *verdict {
	return &verdict{status: status, reason: reason, fields: fields, body: body, answer: answerBare}
}

func answerBare(v *visit, d *verdict) {
	v.srv.reply(v.ctx, d.status, ownFields+d.fields, d.body)
}

// retryAfter is a Retry-After field: whole seconds, at least one.
func retryAfter(d time.Duration) string {
	seconds := max(1, int64((d+time.Second-1)/time.Second))
	return "Retry-After: " + strconv.FormatInt(seconds, 10) + "\r\n"
}

// windowGate refuses everyone outside of the access windows of a route.
type windowGate struct{ closed *verdict }

func newWindowGate(d *draft) (gate, error) {
	c := d.in.Options.Closed
	if c == nil {
		return nil, nil
	}
	closed := pageVerdict(fasthttp.StatusForbidden, "the route is outside of its access windows", "")
	closed.key, closed.closed = "closed", c
	return windowGate{closed}, nil
}

func (g windowGate) check(*visit) *verdict { return g.closed }

// breakerGate refuses everyone while the circuit breaker of a route is open.
type breakerGate struct{ open *verdict }

func newBreakerGate(d *draft) (gate, error) {
	b := d.in.Options.Breaker
	if b == nil {
		return nil, nil
	}
	open := pageVerdict(fasthttp.StatusServiceUnavailable, "the circuit breaker is open", retryAfter(b.RetryAfter))
	open.key = "breaker"
	return breakerGate{open}, nil
}

func (g breakerGate) check(*visit) *verdict { return g.open }

// httpsGate sends plain requests to the TLS port.
type httpsGate struct{}

func newHTTPSGate(d *draft) (gate, error) {
	if !d.in.ForceHTTPS {
		return nil, nil
	}
	return httpsGate{}, nil
}

func (g httpsGate) check(v *visit) *verdict {
	if v.client.Secure() {
		v.note = "the request came over TLS"
		return nil
	}
	return plainRequest
}

var plainRequest = &verdict{
	status: fasthttp.StatusPermanentRedirect, reason: "the request came without TLS",
	answer: func(v *visit, _ *verdict) { v.srv.redirectToHTTPS(v.ctx, v.route) },
}

// certificateGate lets in whose connection showed a certificate for this host.
type certificateGate struct{ auth *clientAuth }

func newCertificateGate(d *draft) (gate, error) {
	if d.route.clientAuth == nil {
		return nil, nil
	}
	return certificateGate{d.route.clientAuth}, nil
}

func (g certificateGate) check(v *visit) *verdict {
	if g.auth.passed(v.client) {
		v.note = "the client has shown a certificate for this host"
		return nil
	}
	return noCertificate
}

// noCertificate ends the connection: on another one the client can be asked.
var noCertificate = &verdict{
	status: fasthttp.StatusMisdirectedRequest, reason: "the connection was made without a certificate for this host",
	answer: func(v *visit, d *verdict) {
		answerPage(v, d)
		v.ctx.SetConnectionClose()
	},
}
