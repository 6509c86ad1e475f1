package proxy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// ownFields are on every answer that is ours.
const ownFields = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"

// peerRetry is when a page about a peer that is away says to come back.
const peerRetry = 30 * time.Second

// Sighting is what is known of a peer.
type Sighting struct {
	Online bool      // it is connected
	Last   time.Time // when it was connected last, zero: not as far as is known
}

// away reports whether the peer behind t is known not to be connected.
func (s *Server) away(t *Target) (Sighting, bool) {
	if s.opts.LastSeen == nil {
		return Sighting{}, false
	}
	seen, known := s.opts.LastSeen(t.Addr.Addr())
	return seen, known && !seen.Online
}

// notice is what a page is about.
type notice struct {
	status int
	key    string  // of the texts; empty: by the status
	fields string  // complete field lines beside the usual ones
	route  *route  // nil where none is to blame
	target *Target // the backend that failed; nil: none did
	closed *Closed // why nobody is let in
}

// page answers with a small page of ours. r is the route that it is about; it is
// nil where none is to blame.
func (s *Server) page(ctx *fasthttp.RequestCtx, status int, r *route) {
	s.show(ctx, notice{status: status, route: r})
}

// show answers with a page, in the form and the language that the client likes
// best. It returns the id that the page shows and the logs repeat. Nothing of the
// request is in a page.
func (s *Server) show(ctx *fasthttp.RequestCtx, n notice) string {
	id := requestIDOf(ctx).String()
	form, lang := negotiate(&ctx.Request.Header)
	t := languages[lang]
	title, text := s.explain(&n, lang)
	fields := ownFields + "Vary: Accept, Accept-Language\r\nContent-Language: " + lang + "\r\n" + n.fields
	var body []byte
	switch form {
	case formJSON:
		fields += "Content-Type: application/json\r\n"
		body, _ = json.Marshal(map[string]any{"ok": false, "error": title, "detail": text, "request_id": id})
	case formText:
		fields += "Content-Type: text/plain; charset=utf-8\r\n"
		body = fmt.Appendf(nil, "%s\n\n%s\n\n%s %d, %s %s\n", title, text, t["error"].title, n.status, t["request"].title, id)
	default:
		fields += pagePolicy + "Content-Type: text/html; charset=utf-8\r\n"
		body = fmt.Appendf(nil, pageHTML, lang, n.status, html.EscapeString(title), html.EscapeString(text), t["error"].title, t["request"].title, id)
	}
	s.reply(ctx, n.status, fields, body)
	return id
}

// explain finds the texts of a notice, and completes it with what is known of the
// peer behind.
func (s *Server) explain(n *notice, lang string) (title, text string) {
	t := languages[lang]
	key := n.key
	if key == "" {
		key = keyOf(n.status)
	}
	var peer, seen string
	if n.target != nil {
		peer = n.target.PeerName
	}
	if key == "unreachable" && peer != "" {
		kind := "peer"
		if n.target.Behind != "" {
			kind = "gateway"
		}
		switch last, away := s.away(n.target); {
		case !away:
			key = "unreachable_" + kind
		case last.Last.IsZero():
			key = kind + "_never_seen"
		default:
			key, seen = kind+"_away", last.Last.UTC().Format(t["time"].text)
		}
		if key != "unreachable_peer" { // a gateway that is there may be starting
			n.fields += retryAfter(peerRetry)
		}
	}
	host := t["this_service"].title
	if n.route != nil && n.route.host != "" {
		host = n.route.host
	}
	fill := strings.NewReplacer("{host}", host, "{peer}", peer, "{seen}", seen)
	title, text = fill.Replace(t[key].title), fill.Replace(t[key].text)
	if n.closed != nil {
		text += n.closed.text(lang)
	}
	return title, text
}

// text goes on with what is known of the times.
func (c *Closed) text(lang string) (text string) {
	for _, part := range []struct {
		key   string
		times model.Schedule
	}{{"closed_open", c.Open}, {"closed_shut", c.Shut}} {
		if len(part.times) > 0 {
			text += " " + strings.NewReplacer("{times}", part.times.Text(lang), "{zone}", c.Zone).Replace(languages[lang][part.key].text)
		}
	}
	return text
}

// reply makes an answer of ours that of the context, whatever was there before.
// fields are complete field lines.
func (s *Server) reply(ctx *fasthttp.RequestCtx, status int, fields string, body []byte) {
	r := s.heads.Get().(*headReader)
	defer s.heads.Put(r)
	head := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n%sX-Request-ID: %s\r\n", status, fasthttp.StatusMessage(status), fields, requestIDOf(ctx))
	ctx.Response.ResetBody()
	ctx.Response.ImmediateHeaderFlush = false
	head = s.appendAltSvc(appendDate(head), ctx.Conn().(client), ctx.Request.Header.Host())
	if err := r.read(&ctx.Response.Header, append(head, "\r\n"...)); err != nil {
		ctx.SetStatusCode(status) // cannot be: the head is ours
	}
	ctx.Response.SetBody(body)
}

const pageStyle = `
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1.5rem}
h1{font-size:1.4rem;margin:0 0 .5rem}
p{margin:.5rem 0}
small{opacity:.7}
`

// pageHTML takes language, status, title, text, the words for error and request,
// and the id.
const pageHTML = `<!doctype html>
<html lang="%[1]s"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>%[2]d %[3]s</title>
<style>` + pageStyle + `</style></head>
<body><main><h1>%[3]s</h1><p>%[4]s</p><p><small>%[5]s %[2]d &middot; %[6]s %[7]s</small></p></main></body></html>
`

// pagePolicy lets a page use its own style and nothing else.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "Content-Security-Policy: default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
}()

// refusal is the answer to a head that failed the strict checks, complete with
// framing: it goes to the socket as it is, and the connection ends with it.
func (s *Server) refusal(cl client, status int) []byte {
	fields, text := s.refusalHead(cl, status)
	head := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", status, fasthttp.StatusMessage(status))
	return append(append(append(head, fields...), "Connection: close\r\n\r\n"...), text...)
}

// refusalHead returns the field lines and the text of a refusal. The request has no
// visit, and nothing in it is worth to be told but that it was there; nor does its
// head say in what form or language the answer is to be.
func (s *Server) refusalHead(cl client, status int) (fields, text []byte) {
	id := newRequestID()
	text = fmt.Appendf(nil, "%s\n%s\n", fasthttp.StatusMessage(status), id)
	if s.opts.Observe != nil {
		s.opts.Observe(&model.AccessRecord{
			ID: id, At: time.Now(), Status: status, Size: int64(len(text)), Remote: cl.Address(),
			Proto: cl.Version().String(), TLS: cl.Secure(), Refused: "head", Reason: "the head of the request is not acceptable",
		})
	}
	if status == fasthttp.StatusMethodNotAllowed {
		fields = append(fields, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"...)
	}
	fields = append(appendDate(fields), "Content-Type: text/plain; charset=utf-8\r\n"+
		"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"...)
	return fmt.Appendf(fields, "X-Request-ID: %s\r\nContent-Length: %d\r\n", id, len(text)), text
}
