package proxy

import (
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// rateLimit bounds the requests of one client address to one route.
type rateLimit struct {
	windows *windows
	clients model.Clients
	route   model.RouteID
	limit   int
	span    time.Duration
}

func newRateLimit(d *draft) (gate, error) {
	l := d.in.Options.RateLimit
	switch {
	case l == nil:
		return nil, nil
	case l.Requests < 1 || l.Requests > 100_000:
		return nil, model.Invalid("rate_limit_requests", "must be 1 to 100000")
	case l.Window < time.Second || l.Window > time.Hour:
		return nil, model.Invalid("rate_limit_window", "must be a second to an hour")
	}
	return &rateLimit{windows: d.srv.requests, clients: d.srv.opts.Clients, route: d.in.ID, limit: l.Requests, span: l.Window}, nil
}

func (g *rateLimit) check(v *visit) *verdict {
	key := windowKey{g.route, g.clients.Key(v.addr)}
	count := g.windows.take
	if v.dry {
		count = g.windows.peek
	}
	wait, ok := count(key, g.limit, g.span, v.at)
	if ok {
		v.note = "the client has requests left"
		return nil
	}
	return bareVerdict(fasthttp.StatusTooManyRequests, "too many requests from this address", retryAfter(wait), nil)
}
