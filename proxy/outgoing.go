package proxy

import (
	"gatecontrol/model"

	"bytes"
	"net/netip"
	"strconv"

	"github.com/valyala/fasthttp"
)

// field is one field line of a head that is being forwarded.
type field struct {
	name, value []byte
	kind        fieldKind
}

// viaName is our pseudonym in Via (RFC 9110, section 7.6.3).
const viaName = "gatecontrol"

// request is what forwarding needs to know of a request beside its context. The
// slices belong to the context.
type request struct {
	fields     []field
	connection []byte // what Connection names
	upgrade    []byte // the one protocol the client wants to change to
	trailers   bool   // TE: trailers
	grpc       bool
	chunked    bool  // the body has no length
	strip      int   // bytes at the start of the target that stay here
	length     int64 // of the body; unknownLength if it has none
	idempotent bool  // says the same when said twice (RFC 9110, section 9.2.2)
	replayable bool  // idempotent, and all of it is at hand to be sent again
	bound      bool  // its login may be good for the connection that it goes on
}

// read collects the fields of a request in the order in which they came.
func (q *request) read(ctx *fasthttp.RequestCtx) {
	*q = request{fields: q.fields[:0]}
	v := visitOf(ctx)
	var upgrade []byte
	upgrades := 0
	for name, value := range ctx.Request.Header.AllInOrder() {
		f := field{name, value, classify(name)}
		switch f.kind {
		case connectionField:
			q.connection = joinList(q.connection, value)
		case upgradeField:
			upgrade = value
			upgrades++
		case teField:
			q.trailers = q.trailers || listHas(value, "trailers")
		case contentField:
			q.grpc = q.grpc || equalFold(name, "content-type") && isGRPC(value)
		case authField:
			if v != nil && v.authorized {
				continue // it was for us
			}
			q.bound = q.bound || bindsLogin(value)
		}
		q.fields = append(q.fields, f)
	}
	q.grpc = q.grpc && q.trailers // which gRPC cannot do without
	body := ctx.Request.IsBodyStream()
	if body {
		q.length = int64(max(ctx.Request.Header.ContentLength(), unknownLength))
		q.chunked = q.length < 0
	}
	// A body would have to be told from the bytes of the new protocol, so an
	// upgrade with one is served without upgrade. So is a list of protocols.
	if upgrades == 1 && !body && isToken(bytes.ReplaceAll(upgrade, slash, nil)) && !equalFold(upgrade, "h2c") &&
		listHas(q.connection, "upgrade") && ctx.Request.Header.IsHTTP11() {
		q.upgrade = upgrade
	}
	switch string(ctx.Request.Header.Method()) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE":
		q.idempotent = q.upgrade == nil
		q.replayable = q.idempotent && !body
	}
}

var slash = []byte{'/'}

// joinList appends a list to a list; the usual case of one line costs nothing.
func joinList(a, b []byte) []byte {
	if len(a) == 0 {
		return b
	}
	return append(append(append([]byte(nil), a...), ','), b...)
}

// forwardable reports whether a plain field goes on: not if Connection names it.
func forwardable(connection []byte, f *field) bool {
	if f.kind.protected() {
		return f.kind < reservedField
	}
	if f.kind != plainField {
		return false
	}
	for list := connection; len(list) > 0; {
		var e []byte
		if e, list = cutList(list); bytes.EqualFold(e, f.name) {
			return false
		}
	}
	return true
}

// appendHead writes the head that the backend gets: method and target byte for
// byte, the fields of the client without those of its hop and those that are
// ours, then ours. Attempts that go elsewhere than up send the same: where there
// are several backends none is a home gateway.
func (q *request) appendHead(b []byte, ctx *fasthttp.RequestCtx, cl client, r *route, up *upstream, snap *snapshot) []byte {
	h := &ctx.Request.Header
	b = append(append(b, h.Method()...), ' ')
	b = append(q.appendTarget(b, h.RequestURI()), " HTTP/1.1\r\n"...)
	b = q.appendFields(b, r, true)
	if q.chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for i := range q.fields {
			if f := &q.fields[i]; f.kind == trailerField {
				b = appendTrailerNames(b, f.value, r.toBackend)
			}
		}
	}
	switch {
	case q.upgrade != nil:
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), q.upgrade...), "\r\n"...)
	case q.trailers:
		b = append(b, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	b = r.toBackend.append(b)
	b = q.appendForwarded(b, h, cl, r, snap)
	b = append(b, up.fields...)
	b = appendVia(b, cl.Version())
	return append(b, "\r\n"...)
}

// appendFields writes the fields of the client that go on, the length of the body
// only if asked to.
func (q *request) appendFields(b []byte, r *route, length bool) []byte {
	for i := range q.fields {
		f := &q.fields[i]
		switch {
		case r.toBackend.has(f.name):
		case f.kind == cookieField:
			if r.admin {
				b = appendField(b, f.name, f.value)
			} else {
				b = appendCookies(b, f, r.sticky)
			}
		case f.kind == lengthField && !length:
		default:
			if forwardable(q.connection, f) {
				b = appendField(b, f.name, f.value)
			}
		}
	}
	return b
}

// appendCopyHead writes the head that mirrors get, but for the end: that of the
// backend with the target as it came, and without framing if a body follows.
func (q *request) appendCopyHead(b []byte, ctx *fasthttp.RequestCtx, cl client, r *route, snap *snapshot, body bool) []byte {
	h := &ctx.Request.Header
	b = append(append(b, h.Method()...), ' ')
	b = append(append(b, h.RequestURI()...), " HTTP/1.1\r\n"...)
	b = q.appendFields(b, r, !body)
	b = r.toBackend.append(b)
	b = q.appendForwarded(b, h, cl, r, snap)
	return appendVia(b, cl.Version())
}

// appendForwarded writes who asked, how and for what. Only a trusted proxy in
// front of us is believed about it; X-Real-IP is always the connection's peer.
// The admin API counts attempts by address and knows no trusted proxies, so it
// gets one address, decided here.
func (q *request) appendForwarded(b []byte, h *fasthttp.RequestHeader, cl client, r *route, snap *snapshot) []byte {
	b = append(b, "X-Forwarded-For: "...)
	addr := cl.Address()
	var host, proto, port []byte
	if snap.trusts(addr) {
		if r.admin {
			addr = q.asker(addr, snap)
		}
		for i := range q.fields {
			switch f := &q.fields[i]; f.kind {
			case forwardedFor:
				if len(f.value) > 0 && !r.admin {
					b = append(append(b, f.value...), ", "...)
				}
			case forwardedHost:
				host = f.value
			case forwardedProto:
				proto = f.value
			case forwardedPort:
				port = f.value
			}
		}
	}
	b = appendAddr(b, addr)
	b = append(b, "\r\nX-Forwarded-Host: "...)
	if len(host) == 0 {
		host = h.Host()
	}
	b = append(b, host...)
	b = append(b, "\r\nX-Forwarded-Proto: "...)
	switch {
	case len(proto) > 0:
		b = append(b, proto...)
	case cl.Secure():
		b = append(b, "https"...)
	default:
		b = append(b, "http"...)
	}
	b = append(b, "\r\nX-Forwarded-Port: "...)
	if len(port) > 0 {
		b = append(b, port...)
	} else {
		b = strconv.AppendUint(b, uint64(publicPort(h.Host(), cl.Secure())), 10)
	}
	b = append(b, "\r\nX-Real-IP: "...)
	b = appendAddr(b, cl.Address())
	return append(b, "\r\n"...)
}

// asker follows what trusted proxies say of whom they ask for, from the last one
// back to the first address that is none of theirs.
func (q *request) asker(addr netip.Addr, snap *snapshot) netip.Addr {
	for i := len(q.fields) - 1; i >= 0; i-- {
		if q.fields[i].kind != forwardedFor {
			continue
		}
		for list := q.fields[i].value; len(list) > 0; {
			cut := bytes.LastIndexByte(list, ',')
			next, err := netip.ParseAddr(string(trimSpace(list[cut+1:])))
			if err != nil {
				return addr
			}
			if addr = next.Unmap().WithZone(""); !snap.trusts(addr) {
				return addr
			}
			list = list[:max(cut, 0)]
		}
	}
	return addr
}

// publicPort is the port that the client believes it is talking to.
func publicPort(host []byte, secure bool) uint16 {
	switch port := model.HostPort(host); {
	case port != 0:
		return port
	case secure:
		return 443
	}
	return 80
}

func appendAddr(b []byte, addr netip.Addr) []byte { return addr.AppendTo(b) }

func appendVia(b []byte, v httpVersion) []byte {
	b = append(append(b, "Via: "...), v.number()...)
	return append(b, " "+viaName+"\r\n"...)
}

func appendField(b, name, value []byte) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// appendCookies forwards a Cookie field without the cookies of our own logins and
// the sticky one, and not at all if no other is left. What stays, stays byte for
// byte.
func appendCookies(b []byte, f *field, sticky string) []byte {
	start := len(b)
	b = append(append(b, f.name...), ": "...)
	from := len(b)
	for rest := f.value; len(rest) > 0; {
		pair, after, _ := bytes.Cut(rest, semicolon)
		rest = after
		name, _, _ := bytes.Cut(pair, equals)
		if name = trimSpace(name); ownCookie(name) || sticky != "" && string(name) == sticky {
			continue
		}
		if len(b) > from {
			b = append(b, ';')
		} else {
			pair = bytes.TrimLeft(pair, " \t")
		}
		b = append(b, pair...)
	}
	if len(b) == from && len(f.value) > 0 {
		return b[:start]
	}
	return append(b, "\r\n"...)
}

var semicolon, equals = []byte{';'}, []byte{'='}

// ownCookie reports whether a cookie is the session of the admin host or of a
// route's login, which no backend may see or set.
func ownCookie(name []byte) bool {
	return string(name) == "gc.sid" || string(name) == "gc.route.sid"
}

// setsOwnCookie reports whether a Set-Cookie value would come back to us under one
// of those names, or as the sticky cookie. Browsers return "=name=value", which has
// no name, as "name=value".
func setsOwnCookie(value []byte, sticky string) bool {
	pair, _, _ := bytes.Cut(value, semicolon)
	name, _, _ := bytes.Cut(bytes.TrimLeft(pair, "= \t"), equals)
	name = trimSpace(name)
	return ownCookie(name) || sticky != "" && string(name) == sticky
}

// appendTrailerNames announces those fields behind the body that may go on: none that
// the route sets, for a recipient may put both together.
func appendTrailerNames(b, list []byte, set setFields) []byte {
	sep := "Trailer: "
	for len(list) > 0 {
		var name []byte
		if name, list = cutList(list); isToken(name) && mayTrail(name) && !set.has(name) {
			b = append(append(b, sep...), name...)
			sep = ", "
		}
	}
	if sep == ", " {
		b = append(b, "\r\n"...)
	}
	return b
}

// appendTrailers writes the field lines behind a body, without those that the route
// sets.
func appendTrailers(b, lines []byte, set setFields) []byte {
	if len(set) == 0 {
		return append(b, lines...)
	}
	for len(lines) > 0 {
		line, rest := cutLine(lines)
		if name, _, ok := cutField(line); ok && !set.has(name) {
			b = append(append(b, line...), '\r', '\n')
		}
		lines = rest
	}
	return b
}
