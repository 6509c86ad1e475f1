package api

import (
	"bytes"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"strings"
)

//go:embed pages
var pageFiles embed.FS

// pages are the HTML pages: plain, without scripts of others, readable without
// any script at all.
type pages struct {
	templates *template.Template
	style     template.CSS
}

func loadPages() (*pages, error) {
	t, err := template.ParseFS(pageFiles, "pages/*.html")
	if err != nil {
		return nil, fmt.Errorf("api: pages: %w", err)
	}
	css, err := pageFiles.ReadFile("pages/style.css")
	if err != nil {
		return nil, fmt.Errorf("api: pages: %w", err)
	}
	return &pages{templates: t, style: template.CSS(css)}, nil
}

// html is a rendered page; its scripts and styles carry the nonce.
type html struct {
	status int
	nonce  string
	body   []byte
}

// render fills a page. Every page gets the style and the nonce that its policy
// allows.
func (p *pages) render(status int, name string, data map[string]any) (responder, error) {
	nonce := hex.EncodeToString(randomBytes(16))
	data["Nonce"], data["Style"] = nonce, p.style
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return html{status, nonce, b.Bytes()}, nil
}

func (h html) respond(*request) *answer {
	policy := "default-src 'none'; style-src 'nonce-" + h.nonce + "'; script-src 'nonce-" + h.nonce + "'; img-src 'self' data:; " +
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
	return &answer{
		status: h.status, typ: "text/html; charset=utf-8", body: h.body,
		header: http.Header{"Content-Security-Policy": {policy}},
	}
}

// failure shows a refusal to people; programs keep the JSON.
func (p *pages) failure(r *request, a *answer) *answer {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		return a
	}
	page, err := p.render(a.status, "error.html", map[string]any{"Status": a.status, "Text": http.StatusText(a.status)})
	if err != nil {
		return a
	}
	return page.respond(r)
}

// redirect is a 302 to a path of this server.
type redirect string

func (to redirect) respond(*request) *answer {
	return &answer{status: http.StatusFound, header: http.Header{"Location": {string(to)}}}
}

// jsonOf is JSON where the other outcome of an operation is not.
type jsonOf struct {
	status int
	v      any
}

func (j jsonOf) respond(*request) *answer { return jsonAnswer(j.status, j.v) }

// file is a body of another type, offered under a name if it has one.
type file struct {
	typ, name string
	body      []byte
}

func (f file) respond(*request) *answer {
	a := &answer{status: http.StatusOK, typ: f.typ, body: f.body}
	if f.name != "" {
		a.header = http.Header{"Content-Disposition": {`attachment; filename="` + f.name + `"`}}
	}
	return a
}
