package demo

import (
	"fmt"
	"html"
	"net/http"
)

// Page is what the demo peer serves: a few lines that say where the request
// came through.
func Page(p *Peer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>It works</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}</style>
<h1>It works</h1>
<p>This page is served by the peer %s. Your request came over %s to the proxy,
then through a WireGuard tunnel to this peer.</p>
<p>You are %s.</p>
</html>
`, html.EscapeString(p.Addr.String()), html.EscapeString(r.Header.Get("X-Forwarded-Proto")), html.EscapeString(r.Header.Get("X-Forwarded-For")))
	})
	return mux
}
