package api

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// The smallest files that begin as pictures of each kind do.
const (
	aPNG  = "\x89PNG\r\n\x1a\n"
	aJPEG = "\xff\xd8\xff\xe0"
	aGIF  = "GIF89a"
	aWebP = "RIFF\x1a\x00\x00\x00WEBPVP8L"
	anSVG = `<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`
)

// part is one of a multipart body; it is a file if disposition says so.
type part struct{ disposition, typ, content string }

// filePart is a part as browsers send a file.
func filePart(name, file, typ, content string) part {
	return part{fmt.Sprintf(`form-data; name="%s"; filename="%s"`, name, file), typ, content}
}

// send posts parts.
func (c *caller) send(t testing.TB, target string, parts ...part) *httptest.ResponseRecorder {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		h := textproto.MIMEHeader{"Content-Disposition": {p.disposition}}
		if p.typ != "" {
			h.Set("Content-Type", p.typ)
		}
		body, err := w.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(body, p.content)
	}
	_ = w.Close()
	return c.with("Content-Type", w.FormDataContentType()).do("POST", target, b.String())
}

// brand sends one picture that must be taken, and returns its name.
func (c *caller) brand(t testing.TB, target string, p part) string {
	t.Helper()
	w := c.send(t, target, p)
	if w.Code != 200 {
		t.Fatalf("%s: %d %s", target, w.Code, w.Body)
	}
	return between(t, w.Body.String(), `{"ok":true,"filename":"`, `"}`)
}

func between(t testing.TB, text, before, after string) string {
	t.Helper()
	text, ok := strings.CutPrefix(text, before)
	text, ok2 := strings.CutSuffix(text, after)
	if !ok || !ok2 {
		t.Fatalf("%s", text)
	}
	return text
}

// kept are the bytes of all stored pictures.
func (f *fixture) kept(t testing.TB) (n int64) {
	t.Helper()
	if err := f.db.View(func(tx *store.Tx) error { n = store.Pictures.Size(tx); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// route reads a member of route 1 as it is listed, and as text.
func (c *caller) routeMember(t testing.TB, name string) string {
	t.Helper()
	one := c.call(t, 200, "GET", "/api/v1/routes/1", "")["route"].(map[string]any)[name]
	list := c.call(t, 200, "GET", "/api/v1/routes", "")["routes"].([]any)[0].(map[string]any)[name]
	if one != list {
		t.Errorf("%s is %v, and %v in the list", name, one, list)
	}
	return fmt.Sprint(one)
}

const (
	logoPath       = "/api/v1/routes/1/branding/logo"
	backgroundPath = "/api/v1/routes/1/branding/bg-image"
	gone           = "<nil>"
)

// newBranded is a fixture with the route 1 and a token for it.
func newBranded(t testing.TB) (*fixture, *caller) {
	t.Helper()
	f := newFixture(t)
	c := f.token(t, "routes")
	c.call(t, 201, "POST", "/api/v1/routes", `{"domain":"app.example.com","target_port":8080}`)
	return f, c
}

func TestBranding(t *testing.T) {
	f, c := newBranded(t)
	f.clock.advance(time.Hour)
	logo := c.brand(t, logoPath, filePart("logo", "Company Logo.PNG", "image/png", aPNG))
	background := c.brand(t, backgroundPath, filePart("bg_image", "beach.jpeg", "image/jpeg", aJPEG))
	if !strings.HasSuffix(logo, ".png") || !strings.HasSuffix(background, ".jpeg") || strings.Contains(logo, "Logo") {
		t.Errorf("%q and %q", logo, background)
	}
	if a, b := c.routeMember(t, "branding_logo"), c.routeMember(t, "branding_bg_image"); a != logo || b != background {
		t.Errorf("the route has %q and %q", a, b)
	}
	if at := c.routeMember(t, "updated_at"); at != "2026-05-01 13:00:00" {
		t.Errorf("updated at %s", at)
	}
	stranger := f.anonymous()
	for _, prefix := range []string{"/branding/", "/route-auth/static/branding/"} {
		for _, file := range []struct{ name, typ, content string }{{logo, "image/png", aPNG}, {background, "image/jpeg", aJPEG}} {
			w, head := stranger.do("GET", prefix+file.name, ""), stranger.do("HEAD", prefix+file.name, "")
			if w.Code != 200 || w.Body.String() != file.content || head.Code != 200 || head.Body.Len() != 0 {
				t.Errorf("%s: %d %q, %d", file.name, w.Code, w.Body, head.Code)
			}
			for name, want := range map[string]string{
				"Content-Type": file.typ, "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; img-src 'self'",
				"Cache-Control": "public, max-age=86400", "Content-Length": fmt.Sprint(len(file.content)), "Set-Cookie": "",
			} {
				if got := w.Header().Get(name); got != want || head.Header().Get(name) != want {
					t.Errorf("%s: %s is %q", file.name, name, got)
				}
			}
		}
	}

	// The next one takes the place of the one before, in any of the forms.
	for _, p := range []part{
		filePart("file", "a.gif", "image/gif", aGIF),
		filePart("logo", "a.webp", "image/webp", aWebP),
		filePart("logo", "../../etc/passwd.jpg", "image/jpeg", aJPEG),
	} {
		next := c.brand(t, logoPath, p)
		if w := stranger.do("GET", "/branding/"+logo, ""); w.Code != 404 {
			t.Errorf("the one before is still there: %d", w.Code)
		}
		if w := stranger.do("GET", "/branding/"+next, ""); w.Code != 200 || w.Body.String() != p.content {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		logo = next
	}
	if n := f.kept(t); n != int64(2*len(aJPEG)) {
		t.Errorf("%d bytes are kept", n)
	}
	// A change of something else leaves pictures alone, whatever it says of them.
	c.call(t, 200, "PUT", "/api/v1/routes/1", `{"branding_title":"x","branding_logo":null,"branding_bg_image":"other.png"}`)
	if a, b := c.routeMember(t, "branding_logo"), c.routeMember(t, "branding_bg_image"); a != logo || b != background {
		t.Errorf("after a change the route has %q and %q", a, b)
	}
	backup := f.admin(t).do("GET", "/api/v1/settings/backup", "").Body.String()
	if !strings.Contains(backup, `"branding_logo":"`+logo+`"`) || !strings.Contains(backup, `"branding_bg_image":"`+background+`"`) {
		t.Error("a backup does not name the pictures")
	}

	for range 2 { // the second one deletes nothing
		f.clock.advance(time.Hour)
		c.call(t, 200, "DELETE", logoPath, "")
		if a, b := c.routeMember(t, "branding_logo"), c.routeMember(t, "branding_bg_image"); a != gone || b != background {
			t.Errorf("the route has %q and %q", a, b)
		}
		if at := c.routeMember(t, "updated_at"); at != "2026-05-01 14:00:00" {
			t.Errorf("updated at %s", at)
		}
	}
	if w := stranger.do("GET", "/branding/"+logo, ""); w.Code != 404 {
		t.Errorf("what was deleted is there: %d", w.Code)
	}
	c.call(t, 200, "DELETE", backgroundPath, "")
	c.call(t, 200, "DELETE", backgroundPath, "")
	for _, path := range []string{"/api/v1/routes/9/branding/logo", "/api/v1/routes/x/branding/logo", "/api/v1/routes/9/branding/bg-image"} {
		c.call(t, 404, "DELETE", path, "")
	}
	if n := f.kept(t); n != 0 {
		t.Errorf("%d bytes are kept", n)
	}
	activity := f.admin(t).do("GET", "/api/v1/logs/activity", "").Body.String()
	for _, text := range []string{"the logo of route app.example.com was changed", "the background image of route app.example.com was deleted"} {
		if !strings.Contains(activity, text) {
			t.Errorf("nothing says that %s", text)
		}
	}
}

// TestBrandingGoesWithRoute: pictures are deleted with what names them.
func TestBrandingGoesWithRoute(t *testing.T) {
	for _, d := range []struct{ name, method, path, body string }{
		{"deleted", "DELETE", "/api/v1/routes/1", ""},
		{"deleted with others", "POST", "/api/v1/routes/batch", `{"action":"delete","ids":[1,2]}`},
		{"changed to one without a page", "PUT", "/api/v1/routes/1", `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"5000"}`},
	} {
		t.Run(d.name, func(t *testing.T) {
			f, c := newBranded(t)
			c.call(t, 201, "POST", "/api/v1/routes", `{"domain":"b.example.com","target_port":8080}`)
			c.call(t, 201, "POST", "/api/v1/routes", `{"domain":"c.example.com","target_port":8080}`)
			names := []string{
				c.brand(t, logoPath, filePart("logo", "a.png", "image/png", aPNG)),
				c.brand(t, backgroundPath, filePart("file", "a.png", "image/png", aPNG)),
			}
			other := c.brand(t, "/api/v1/routes/3/branding/logo", filePart("logo", "a.gif", "image/gif", aGIF))
			for _, refused := range []struct{ method, path, body string }{ // all or nothing
				{"POST", "/api/v1/routes/batch", `{"action":"delete","ids":[1,99]}`},
				{"PUT", "/api/v1/routes/1", `{"route_type":"l4"}`},
			} {
				if w := c.do(refused.method, refused.path, refused.body); w.Code < 400 || f.kept(t) != int64(2*len(aPNG)+len(aGIF)) {
					t.Errorf("%s %s: %d, and %d bytes are kept", refused.method, refused.body, w.Code, f.kept(t))
				}
			}
			c.call(t, 200, d.method, d.path, d.body)
			for _, name := range names {
				if w := f.anonymous().do("GET", "/branding/"+name, ""); w.Code != 404 {
					t.Errorf("%s is still there: %d", name, w.Code)
				}
			}
			if w := f.anonymous().do("GET", "/branding/"+other, ""); w.Code != 200 || f.kept(t) != int64(len(aGIF)) {
				t.Errorf("the picture of another route: %d, and %d bytes are kept", w.Code, f.kept(t))
			}
		})
	}
}

// TestBadBranding sends what must be refused. Nothing of it is kept.
func TestBadBranding(t *testing.T) {
	good := filePart("logo", "a.png", "image/png", aPNG)
	f, c := newBranded(t)
	was := c.brand(t, logoPath, good)
	c.call(t, 201, "POST", "/api/v1/routes", `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":5000,"target_port":8080}`)
	full := aPNG + strings.Repeat("x", maxUpload-len(aPNG))
	many := make([]part, maxParts+1)
	for i := range many {
		many[i] = part{fmt.Sprintf(`form-data; name="f%d"`, i), "", "x"}
	}
	for _, d := range []struct {
		name  string
		path  string
		parts []part
		want  int
		field string
	}{
		{"SVG renamed to PNG", logoPath, []part{filePart("logo", "a.png", "image/png", anSVG)}, 400, "logo"},
		{"SVG", logoPath, []part{filePart("logo", "a.svg", "image/svg+xml", anSVG)}, 400, "logo"},
		{"HTML declared as PNG", logoPath, []part{filePart("logo", "a.html", "image/png", "<script>")}, 400, "logo"},
		{"HTML behind the magic of a PNG", logoPath, []part{filePart("logo", "a.html", "text/html", aPNG+"<script>")}, 400, "logo"},
		{"GIF named PNG", logoPath, []part{filePart("logo", "a.png", "image/png", aGIF)}, 400, "logo"},
		{"GIF named PNG, declared as GIF", logoPath, []part{filePart("logo", "a.png", "image/gif", aGIF)}, 400, "logo"},
		{"PNG declared as JPEG", logoPath, []part{filePart("logo", "a.png", "image/jpeg", aPNG)}, 400, "logo"},
		{"PNG that is not declared", logoPath, []part{filePart("logo", "a.png", "", aPNG)}, 400, "logo"},
		{"PNG declared as bytes", logoPath, []part{filePart("logo", "a.png", "application/octet-stream", aPNG)}, 400, "logo"},
		{"a name without an extension", logoPath, []part{filePart("logo", "png", "image/png", aPNG)}, 400, "logo"},
		{"a name that ends otherwise", logoPath, []part{filePart("logo", "a.png.php", "image/png", aPNG)}, 400, "logo"},
		{"a path for a name", logoPath, []part{filePart("logo", "../../../etc/passwd", "image/png", aPNG)}, 400, "logo"},
		{"a zero byte in the name", logoPath, []part{filePart("logo", "a.php\x00.png\x00", "image/png", aPNG)}, 400, ""},
		{"nothing in it", logoPath, []part{filePart("logo", "a.png", "image/png", "")}, 400, "logo"},
		{"wide", logoPath, []part{filePart("logo", "a.png", "image/png", aPNG+"\x00\x00\x00\x0dIHDR\x00\x00\x10\x01\x00\x00\x00\x01\x08")}, 400, "logo"},
		{"one byte too large", logoPath, []part{filePart("logo", "a.png", "image/png", full+"x")}, 413, ""},
		{"far too large", logoPath, []part{filePart("logo", "a.png", "image/png", full+full)}, 413, ""},
		{"too large beside the file", logoPath, []part{{`form-data; name="x"`, "", strings.Repeat("x", maxUploadBody)}, good}, 413, ""},
		{"another part", logoPath, []part{filePart("avatar", "a.png", "image/png", aPNG)}, 400, "logo"},
		{"a part without a name", logoPath, []part{{`form-data; filename="a.png"`, "image/png", aPNG}}, 400, "logo"},
		{"the part of the other picture", logoPath, []part{filePart("bg_image", "a.png", "image/png", aPNG)}, 400, "logo"},
		{"the part of the other picture, the other way", backgroundPath, []part{good}, 400, "bg_image"},
		{"two files", logoPath, []part{good, good}, 400, "logo"},
		{"two files in different parts", logoPath, []part{good, filePart("file", "b.png", "image/png", aPNG)}, 400, "logo"},
		{"a file too many", logoPath, []part{good, filePart("x", "b.png", "image/png", aPNG)}, 400, "logo"},
		{"no file", logoPath, nil, 400, "logo"},
		{"a text in its place", logoPath, []part{{`form-data; name="logo"`, "", aPNG}}, 400, "logo"},
		{"no file chosen", logoPath, []part{filePart("logo", "", "application/octet-stream", "")}, 400, "logo"},
		{"a form of many fields", logoPath, append(many, good), 400, "logo"},
		{"an unknown route", "/api/v1/routes/9/branding/logo", []part{good}, 404, ""},
		{"no number of a route", "/api/v1/routes/..%5c1/branding/logo", []part{good}, 404, ""},
		{"a port route", "/api/v1/routes/2/branding/logo", []part{good}, 400, ""},
	} {
		t.Run(d.name, func(t *testing.T) {
			w := c.send(t, d.path, d.parts...)
			body := w.Body.String()
			if w.Code != d.want || !strings.HasPrefix(body, `{"ok":false,"error":"`) || d.field != "" && !strings.Contains(body, `"fields":{"`+d.field+`":"`) {
				t.Errorf("%d, want %d: %s", w.Code, d.want, body)
			}
			if now := c.routeMember(t, "branding_logo"); now != was || c.routeMember(t, "branding_bg_image") != gone || f.kept(t) != int64(len(aPNG)) {
				t.Errorf("the route has %q, and %d bytes are kept", now, f.kept(t))
			}
		})
	}
	for _, d := range []struct {
		name, typ, body string
		want            int
	}{
		{"JSON", "application/json", `{"logo":"x"}`, 415},
		{"a form", formType, "logo=x", 415},
		{"a picture without a form", "image/png", aPNG, 415},
		{"no boundary", "multipart/form-data", "--x--", 415},
		{"parts of another kind", "multipart/mixed; boundary=x", "--x--", 415},
		{"an empty body", "", "", 400},
		{"an empty form", "multipart/form-data; boundary=x", "--x--\r\n", 400},
		{"another boundary", "multipart/form-data; boundary=y", "--x--\r\n", 400},
		{"a body that was cut behind the file", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=logo; filename=a.png\r\nContent-Type: image/png\r\n\r\n" + aPNG + "\r\n--x", 400},
		{"a body that was cut in the file", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=logo; filename=a.png\r\nContent-Type: image/png\r\n\r\n" + aPNG, 400},
		{"a head without an end", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: " + strings.Repeat("x", 100_000), 400},
	} {
		t.Run(d.name, func(t *testing.T) {
			if w := c.with("Content-Type", d.typ).do("POST", logoPath, d.body); w.Code != d.want || f.kept(t) != int64(len(aPNG)) {
				t.Errorf("%d, want %d: %s", w.Code, d.want, w.Body)
			}
		})
	}
	// As large as may be, with the fields of a form around it.
	c.brand(t, logoPath, filePart("logo", "a.png", "image/png", full))
	if w := c.send(t, logoPath, part{`form-data; name="note"`, "", "x"}, good, part{`form-data; name="_csrf"`, "", "x"}); w.Code != 200 {
		t.Errorf("with fields beside it: %d %s", w.Code, w.Body)
	}
}

// TestWhoBrands: a file is not even read of who may not send one.
func TestWhoBrands(t *testing.T) {
	f, _ := newBranded(t)
	admin := f.admin(t)
	good := filePart("logo", "a.png", "image/png", aPNG)
	for _, d := range []struct {
		name string
		as   *caller
		want int
	}{
		{"nobody", f.anonymous(), 401},
		{"a token for reading", f.token(t, "read-only"), 403},
		{"a token for something else", f.token(t, "peers", "settings", "backup", "client"), 403},
		{"a login", admin, 200},
		{"a login from another site", admin.with("Origin", "http://evil.example"), 403},
		{"a login without its CSRF token", admin.with("X-CSRF-Token", ""), 403},
		{"a token for routes", f.token(t, "routes"), 200},
		{"a token for everything", f.token(t, "full-access"), 200},
	} {
		t.Run(d.name, func(t *testing.T) {
			if w := d.as.send(t, logoPath, good, part{`form-data; name="_csrf"`, "", admin.csrf}); w.Code != d.want {
				t.Errorf("%d, want %d: %s", w.Code, d.want, w.Body)
			}
			if d.want == 200 {
				return
			}
			body := &reader{Reader: strings.NewReader("--x--")}
			hr := httptest.NewRequest("POST", logoPath, body)
			hr.Host, hr.RemoteAddr = "gate.example.com", d.as.remote
			for name, values := range d.as.header {
				hr.Header[name] = values
			}
			hr.Header.Set("Content-Type", "multipart/form-data; boundary=x")
			w := httptest.NewRecorder()
			if d.as.handler.ServeHTTP(w, hr); w.Code != d.want || body.read {
				t.Errorf("%d, and the body was read: %t", w.Code, body.read)
			}
		})
	}
}

// reader notes that it was read from.
type reader struct {
	io.Reader
	read bool
}

func (r *reader) Read(p []byte) (int, error) {
	r.read = true
	return r.Reader.Read(p)
}

func TestUploadLimit(t *testing.T) {
	f, c := newBranded(t)
	good := filePart("file", "a.png", "image/png", aPNG)
	for i := range uploadLimit {
		path := logoPath
		if i%2 == 1 {
			path = backgroundPath
		}
		if w := c.send(t, path, good); w.Code != 200 || w.Header().Get("RateLimit-Limit") != "15" || w.Header().Get("RateLimit-Remaining") != fmt.Sprint(uploadLimit-1-i) {
			t.Fatalf("upload %d: %d %v", i, w.Code, w.Header())
		}
	}
	w := c.send(t, logoPath, good)
	if w.Code != 429 || w.Header().Get("Retry-After") != "900" {
		t.Errorf("one more: %d %v", w.Code, w.Header())
	}
	if w := c.send(t, backgroundPath, good); w.Code != 429 {
		t.Errorf("one more of the other kind: %d", w.Code)
	}
	// Others are not concerned, nor is anything else.
	if w := f.token(t, "routes").send(t, logoPath, good); w.Code != 200 {
		t.Errorf("another token: %d", w.Code)
	}
	c.call(t, 200, "DELETE", logoPath, "")
	f.clock.advance(15 * time.Minute)
	if w := c.send(t, logoPath, good); w.Code != 200 {
		t.Errorf("later: %d", w.Code)
	}
	// A login is counted by its address.
	for range uploadLimit {
		f.admin(t).send(t, logoPath, good)
	}
	if w := f.admin(t).send(t, logoPath, good); w.Code != 429 {
		t.Errorf("one more from an address: %d", w.Code)
	}
}

// TestPicturesHaveARoom: one route after the other cannot fill the disk.
func TestPicturesHaveARoom(t *testing.T) {
	f, c := newBranded(t)
	full := filePart("logo", "a.png", "image/png", aPNG+strings.Repeat("x", maxUpload-len(aPNG)))
	for i := 1; i <= 16; i++ {
		c.call(t, 201, "POST", "/api/v1/routes", fmt.Sprintf(`{"domain":"r%d.example.com","target_port":8080}`, i))
		f.token(t, "routes").brand(t, fmt.Sprintf("/api/v1/routes/%d/branding/logo", i), full)
	}
	path := "/api/v1/routes/17/branding/logo"
	if w := c.send(t, path, filePart("logo", "a.png", "image/png", aPNG)); w.Code != 409 || f.kept(t) != 16*maxUpload {
		t.Errorf("one too many: %d %s, %d bytes are kept", w.Code, w.Body, f.kept(t))
	}
	// One in the place of another is none more.
	c.brand(t, logoPath, full)
	c.brand(t, logoPath, filePart("logo", "a.png", "image/png", aPNG))
	c.brand(t, path, filePart("logo", "a.png", "image/png", aPNG))
}

// TestNoPicture asks for what is none, as somebody who looks around would.
func TestNoPicture(t *testing.T) {
	f, c := newBranded(t)
	name := c.brand(t, logoPath, filePart("logo", "a.png", "image/png", aPNG))
	for _, path := range []string{
		"/branding/00112233-4455-4677-8899-aabbccddeeff.png", "/branding/a.png", "/branding/a.svg", "/branding/.png", "/branding/.htaccess",
		"/branding/" + name + "x", "/branding/" + strings.ToUpper(name), "/branding/" + strings.TrimSuffix(name, ".png"),
		"/branding/" + strings.TrimSuffix(name, ".png") + ".jpg", "/branding/%00" + name, "/branding/%2e" + name, "/branding/gatecontrol.db",
	} {
		for _, as := range []*caller{f.anonymous(), f.admin(t)} {
			w := as.do("GET", path, "")
			if w.Code != 404 || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %d %v", path, w.Code, w.Header())
			}
		}
	}
	// There is no list, and no way out.
	for _, path := range []string{"/branding", "/branding/", "/branding/../" + name, "/branding/x/" + name, "/branding/..%2f" + name, "/branding//" + name, "/route-auth/static/branding/", "/route-auth/static/"} {
		if w := f.admin(t).do("GET", path, ""); w.Code != 404 || strings.Contains(w.Body.String(), name) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if w := f.anonymous().do("GET", path, ""); w.Code != http.StatusFound || strings.Contains(w.Body.String(), name) {
			t.Errorf("%s, by nobody: %d %s", path, w.Code, w.Body)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		f.admin(t).call(t, 405, method, "/branding/"+name, "")
	}
	if w := f.anonymous().with("Host", "app.example.com").do("GET", "/branding/"+name, ""); w.Code != 421 {
		t.Errorf("under the name of a route, past the proxy: %d", w.Code)
	}
}

// TestPictureIsCut: what is deleted while it is sent ends early, and is not taken
// for the whole.
func TestPictureIsCut(t *testing.T) {
	f, c := newBranded(t)
	content := aPNG + strings.Repeat("x", maxUpload-len(aPNG))
	name := c.brand(t, logoPath, filePart("logo", "a.png", "image/png", content))
	section, typ, err := f.Routes.OpenPicture(name)
	if err != nil || typ != "image/png" || section.Size() != maxUpload {
		t.Fatalf("%s, %v", typ, err)
	}
	begin := make([]byte, maxUpload/2)
	if _, err := io.ReadFull(section, begin); err != nil {
		t.Fatal(err)
	}
	if err := f.Routes.Delete(t.Context(), model.RouteID(1)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(section); err == nil || len(rest) > 0 {
		t.Errorf("%d bytes more, %v", len(rest), err)
	}
	if string(begin) != content[:maxUpload/2] {
		t.Error("it began with other bytes")
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := &request{Request: hr, header: w.Header()}
		f.send(w, r, picture{section, typ}.respond(r))
	}))
	defer srv.Close()
	defer srv.Client().CloseIdleConnections()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("an answer of %d bytes of %d ends well", len(b), res.ContentLength)
	}
}
