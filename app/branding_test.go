package app_test

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// uploadForm is the body of a form with one file.
func uploadForm(t testing.TB, part, name, typ string, content []byte) (body *bytes.Buffer, contentType string) {
	t.Helper()
	body = new(bytes.Buffer)
	w := multipart.NewWriter(body)
	p, err := w.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {fmt.Sprintf(`form-data; name=%q; filename=%q`, part, name)}, "Content-Type": {typ},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = p.Write(content)
	_ = w.Close()
	return body, w.FormDataContentType()
}

// TestBranding brings pictures over the admin port and through the proxy, and
// looks at them there and after a restart. Other hosts keep the paths of pictures
// for their own services.
func TestBranding(t *testing.T) {
	const admin = "admin.example.com"
	s := lab.Start(t, func(o *app.Options) { o.BaseURL = "http://" + admin })
	o := lab.Options(t)
	o.DataDir, o.BaseURL = s.Dir, "http://"+admin
	token := s.Admin.MakeToken(t, "routes")
	id, p := s.Peer(t, "nas")
	publish(t, s, id, p, "app.example.com", "what the service has there")

	content := append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{0}, 2<<20-8)...)
	send := func(c *http.Client, url string, content []byte) (status int, name string) {
		t.Helper()
		body, typ := uploadForm(t, "logo", "logo.png", "image/png", content)
		req, err := http.NewRequest("POST", url, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", typ)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscanf(string(raw), `{"ok":true,"filename":%q}`, &name)
		return resp.StatusCode, name
	}
	get := func(c *http.Client, url string) (int, []byte, http.Header) {
		t.Helper()
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b, resp.Header
	}
	web := trusting(t, s)
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	const path = "/api/v1/routes/1/branding/logo"
	if status, _ := send(web, "https://"+admin+path, append(content, 0)); status != 413 {
		t.Errorf("one byte too many, through the proxy: %d", status)
	}
	status, name := send(web, "https://"+admin+path, content)
	if status != 200 || name == "" {
		t.Fatalf("through the proxy: %d", status)
	}
	for _, url := range []string{
		"https://" + admin + "/branding/" + name, "https://" + admin + "/route-auth/static/branding/" + name,
	} {
		if status, b, h := get(web, url); status != 200 || !bytes.Equal(b, content) || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Type") != "image/png" {
			t.Errorf("%s: %d, %d bytes, %v", url, status, len(b), h)
		}
	}
	for _, path := range []string{"/branding/" + name, "/route-auth/static/branding/" + name} {
		if status, b, _ := get(web, "https://app.example.com"+path); status != 200 || string(b) != "what the service has there" {
			t.Errorf("a route without a sign-in page: %d %.40q", status, b)
		}
	}
	if status, again := send(plain, "http://"+s.Addrs().Admin+path, content[:100]); status != 200 || again == name {
		t.Errorf("over the admin port: %d %s", status, again)
	} else {
		name = again
	}
	s.Stop(t)

	s = lab.Run(t, o)
	if status, b, _ := get(plain, "http://"+s.Addrs().Admin+"/branding/"+name); status != 200 || !bytes.Equal(b, content[:100]) {
		t.Errorf("after a restart: %d, %d bytes", status, len(b))
	}
	var route struct {
		Route struct {
			Logo string `json:"branding_logo"`
		}
	}
	api := lab.NewClient("http://" + s.Addrs().Admin).WithToken(token)
	defer api.HTTP.CloseIdleConnections()
	if api.Call(t, 200, "GET", "/api/v1/routes/1", nil, &route); route.Route.Logo != name {
		t.Errorf("after a restart the route has %q", route.Route.Logo)
	}
	api.Call(t, 200, "DELETE", "/api/v1/routes/1", nil, nil)
	if status, _, _ := get(plain, "http://"+s.Addrs().Admin+"/branding/"+name); status != 404 {
		t.Errorf("after its route: %d", status)
	}
}
