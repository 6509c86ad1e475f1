package proxy

import (
	"encoding/json"
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// page answers with a small page of ours, as HTML or, for who prefers that, as
// JSON. It returns the id that it shows and the log repeats. r names the route
// of a failed backend; it is nil where no route is to blame. Nothing of the
// request is in a page.
func (s *Server) page(ctx *fasthttp.RequestCtx, status int, r *route) string {
	return s.pageWith(ctx, status, "", r)
}

// ownFields are on every answer that is ours.
const ownFields = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"

// pageWith is page with further field lines.
func (s *Server) pageWith(ctx *fasthttp.RequestCtx, status int, more string, r *route) string {
	id := requestIDOf(ctx).String()
	title, text := explain(status, r)
	fields := ownFields + "Vary: Accept\r\n" + more
	if prefersJSON(ctx) {
		body, _ := json.Marshal(map[string]any{"ok": false, "error": title, "detail": text, "request_id": id})
		s.reply(ctx, status, fields+"Content-Type: application/json\r\n", body)
		return id
	}
	fields += "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n" +
		"Content-Type: text/html; charset=utf-8\r\n"
	s.reply(ctx, status, fields, fmt.Appendf(nil, pageHTML, status, html.EscapeString(title), html.EscapeString(text), id))
	return id
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

// pageHTML takes status, title, text and request id.
const pageHTML = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>%[1]d %[2]s</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1.5rem}
h1{font-size:1.4rem;margin:0 0 .5rem}
p{margin:.5rem 0}
small{opacity:.7}
</style></head>
<body><main><h1>%[2]s</h1><p>%[3]s</p><p><small>Error %[1]d &middot; request %[4]s</small></p></main></body></html>
`

// explain says what happened and what to check.
func explain(status int, r *route) (title, text string) {
	host, behind := "This service", "the service behind it"
	if r != nil {
		host = r.host
		if r.target.PeerName != "" {
			behind = r.target.PeerName
		}
	}
	switch status {
	case fasthttp.StatusUnauthorized:
		return "Sign in", "This service asks for a user and a password."
	case fasthttp.StatusForbidden:
		return "Access denied", "This service does not answer requests from your network address."
	case fasthttp.StatusTooManyRequests:
		return "Too many attempts", "There were too many attempts from your network address. Try again in a while."
	case fasthttp.StatusNotFound:
		return "Not found", "Nothing is published under this name. Check the address, or ask the operator whether the service is switched on."
	case fasthttp.StatusMisdirectedRequest:
		return "Misdirected request", "This connection was opened for another name. Load the page again."
	case fasthttp.StatusBadGateway:
		return host + " cannot be reached", "The gateway works, but " + behind + " does not answer. Check that the device is on, connected to the tunnel, and that the service is running."
	case fasthttp.StatusGatewayTimeout:
		return host + " does not answer", "The gateway waited for " + behind + " in vain. Check that the device is on and connected to the tunnel."
	case fasthttp.StatusServiceUnavailable:
		return "Not available", "This service takes no requests at the moment. Try again in a while."
	}
	return "Something went wrong", "The request failed inside the gateway. The log has the details under the request number below."
}

// prefersJSON reports whether Accept names JSON and not HTML.
func prefersJSON(ctx *fasthttp.RequestCtx) bool {
	for name, value := range ctx.Request.Header.AllInOrder() {
		if equalFold(name, "accept") {
			accept := strings.ToLower(string(value))
			return strings.Contains(accept, "json") && !strings.Contains(accept, "html")
		}
	}
	return false
}

// refusal is the answer to a head that failed the strict checks, complete with
// framing: it goes to the socket as it is, and the connection ends with it.
func (s *Server) refusal(cl client, status int) []byte {
	fields, text := s.refusalHead(cl, status)
	head := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", status, fasthttp.StatusMessage(status))
	return append(append(append(head, fields...), "Connection: close\r\n\r\n"...), text...)
}

// refusalHead returns the field lines and the text of a refusal. The request has no
// visit, and nothing in it is worth to be told but that it was there.
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
