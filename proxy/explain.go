package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// Names of the steps of an explanation that come before the gates of a route, and
// behind them.
const (
	stepHandshake = "tls_handshake"
	stepHead      = "head"
	stepChallenge = "acme_challenge"
	stepMatch     = "match"
	stepPath      = "path"
	stepGateway   = "gateway"
)

// Explain tells what the proxy would do with a request: it asks the same gates, on
// the same snapshot, that a real one would meet, and writes the head that its
// backend would get. Nothing is sent, and nothing counted but wrong passwords. Errors
// are of kind invalid and name the field, or of kind limited.
func (s *Server) Explain(q model.ExplainRequest) (*model.Explanation, error) {
	text, client, err := compose(&q)
	if err != nil {
		return nil, err
	}
	chain, err := readChain(q.ClientCertificate)
	if err != nil {
		return nil, err
	}
	e := new(model.Explanation)
	step := func(name string, d *verdict, note string) {
		st := model.ExplainedStep{Name: name, Passes: d == nil, Reason: note}
		if d != nil {
			st.Status, st.Reason = d.status, d.reason
			if e.Refused == "" {
				e.Refused, e.Status = name, d.status
			}
		}
		e.Steps = append(e.Steps, st)
	}
	if client.secure {
		var d *verdict
		note, failure := s.explainHandshake(client, chain, q.HasCertificate)
		if failure != "" {
			d = &verdict{status: model.StatusDropped, reason: failure}
		}
		step(stepHandshake, d, note)
	}
	var head requestHead
	var scan headScan
	n, status := scan.next(text)
	if status == 0 && n > 0 {
		status = head.parse(text)
	}
	if status != 0 {
		step(stepHead, &verdict{status: status, reason: "the head of the request is not acceptable"}, "")
		return e, nil
	}
	step(stepHead, nil, "the head of the request is well-formed")
	ctx := new(fasthttp.RequestCtx)
	ctx.Init2(client, silent{}, true)
	h := &ctx.Request.Header
	h.DisableNormalizing()
	if h.Read(bufio.NewReaderSize(bytes.NewReader(text), len(text))) != nil {
		return nil, model.Invalid("headers", "the request cannot be read")
	}
	h.SetRequestURIBytes(head.target)
	h.Del(fasthttp.HeaderExpect)
	if head.length != 0 {
		ctx.Request.SetBodyStream(bytes.NewReader(nil), int(head.length))
	}
	snap := s.snapshot.Load()
	v := &visit{srv: s, ctx: ctx, client: client, addr: client.addr, at: time.Now(), id: newRequestID(), dry: true}
	ctx.SetUserValue(visitKey{}, v)

	if !client.secure && s.answerChallenge(ctx) {
		step(stepChallenge, &verdict{status: fasthttp.StatusOK, reason: "an authority asks for the token of a running order"}, "")
		return e, nil
	}
	switch m := snap.match(h.Host(), client.name); {
	case m.other:
		step(stepMatch, &verdict{status: fasthttp.StatusMisdirectedRequest, reason: "the connection was made for another name"}, "")
		return e, nil
	case m.route == nil:
		step(stepMatch, &verdict{status: fasthttp.StatusNotFound, reason: "nothing is published under this name"}, "")
		return e, nil
	default:
		v.route = m.route
		e.Route, e.Host, e.Admin = m.route.id, m.route.host, m.route.admin
		step(stepMatch, nil, "the name is that of a route")
	}
	for _, g := range v.route.gates {
		v.note = ""
		var d *verdict
		if login, ok := g.gate.(*basicAuth); ok {
			if d, err = login.explained(v); err != nil {
				return nil, err
			}
		} else {
			d = g.check(v)
		}
		step(g.name, d, v.note)
	}
	s.explainForward(e, step, v, snap)
	return e, nil
}

// explainForward tells what forward would do.
func (s *Server) explainForward(e *model.Explanation, step func(string, *verdict, string), v *visit, snap *snapshot) {
	r := v.route
	path := r.path(v.ctx.Request.Header.RequestURI())
	switch {
	case path != nil && path.redirect != "":
		step(stepPath, &verdict{status: path.status, reason: fmt.Sprintf("%s leads to %s", path.prefix, path.redirect)}, "")
		return
	case path != nil:
		step(stepPath, nil, fmt.Sprintf("%s leads elsewhere than the route", path.prefix))
	}
	var q request
	q.read(v.ctx)
	if path != nil && path.strip {
		q.strip = len(path.prefix)
	}
	candidates := r.candidates(path, &q)
	e.Head = string(q.appendHead(nil, v.ctx, v.client, r, &candidates[0], snap))
	if t := &candidates[0].target; t.Behind != "" {
		note := fmt.Sprintf("the home gateway %s leads on to %s", t.PeerName, t.Behind)
		if _, away := s.away(t); away {
			note += "; it is not connected"
		}
		step(stepGateway, nil, note)
	}
	for _, up := range candidates {
		if up.pool.key != (poolKey{}) { // of the admin API there is none
			e.Targets = append(e.Targets, model.ExplainedTarget{Addr: up.target.Addr, Peer: up.target.PeerName, TLS: up.target.TLS})
		}
	}
}

// candidates are the backends among which choose would choose.
func (r *route) candidates(path *pathRule, q *request) []upstream {
	switch b := r.balance; {
	case path != nil && path.upstream != nil:
		return []upstream{*path.upstream}
	case b == nil:
		return []upstream{r.upstream}
	default:
		if st := r.options.Sticky; st != nil {
			if i := b.marked(q.cookie(st.Cookie)); i >= 0 {
				return b.members[i : i+1]
			}
		}
		return b.members
	}
}

// compose writes the head of a request as a client would send it.
func compose(q *model.ExplainRequest) (text []byte, c *imagined, err error) {
	authority, target, ok := cutScheme([]byte(q.URL))
	name, named := model.NormalizeHost(string(authority))
	if !ok || !named {
		return nil, nil, model.Invalid("url", "must be an absolute URL, http or https")
	}
	if i := bytes.IndexByte(target, '#'); i >= 0 {
		target = target[:i]
	}
	if len(target) == 0 || target[0] != '/' {
		target = append([]byte{'/'}, target...)
	}
	if !isVisible(q.URL) {
		return nil, nil, model.Invalid("url", "holds characters that must be encoded")
	}
	if !q.Address.IsValid() {
		return nil, nil, model.Invalid("address", "must be an IP address")
	}
	method := q.Method
	if method == "" {
		method = "GET"
	}
	if !isToken([]byte(method)) {
		return nil, nil, model.Invalid("method", "%q is not a method", method)
	}
	c = &imagined{addr: q.Address.Unmap().WithZone(""), secure: equalFold([]byte(q.URL[:min(6, len(q.URL))]), "https:")}
	if local, err := netip.ParseAddr(name); err == nil {
		c.local = local // addresses are no SNI (RFC 6066, section 3)
	} else if c.secure {
		c.name = name
	}
	if c.port = model.HostPort(authority); c.port == 0 {
		c.port = publicPort(nil, c.secure)
	}
	fields := []byte{}
	hosts := 0
	for i, f := range q.Headers {
		field := fmt.Sprintf("headers[%d]", i)
		if !isToken([]byte(f.Name)) {
			return nil, nil, model.Invalid(field+".name", "%q is not the name of a field", f.Name)
		}
		if !isClean([]byte(f.Value)) {
			return nil, nil, model.Invalid(field+".value", "holds control characters")
		}
		if equalFold([]byte(f.Name), "host") {
			hosts++
		}
		fields = appendField(fields, []byte(f.Name), []byte(f.Value))
	}
	text = fmt.Appendf(nil, "%s %s HTTP/1.1\r\n", method, target)
	if hosts == 0 {
		text = appendField(text, []byte("Host"), authority)
	}
	return append(append(text, fields...), "\r\n"...), c, nil
}
