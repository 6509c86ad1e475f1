package dns01

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/lab/acme"
	"gatecontrol/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is what a provider keeps, behind its API as that is documented.
type zone struct {
	mu     sync.Mutex
	values map[string][]string // TXT by full name, without quotes
}

func (z *zone) add(name, value string) {
	z.values[name] = append(z.values[name], value)
}

func (z *zone) remove(name, value string) {
	z.values[name] = slices.DeleteFunc(z.values[name], func(v string) bool { return v == value })
}

func read(t *testing.T, r *http.Request, into any) {
	t.Helper()
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func cloudflareAPI(t *testing.T, z *zone) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /zones", func(w http.ResponseWriter, r *http.Request) {
		result := []map[string]string{}
		if r.URL.Query().Get("name") == "example.com" {
			result = append(result, map[string]string{"id": "z1", "name": "example.com"})
		}
		write(w, 200, map[string]any{"success": true, "result": result})
	})
	m.HandleFunc("POST /zones/z1/dns_records", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Type, Name, Content string }
		read(t, r, &in)
		if in.Type != "TXT" || in.Content != quote(unquote(in.Content)) {
			t.Errorf("%+v", in)
		}
		z.add(in.Name, unquote(in.Content))
		write(w, 200, map[string]any{"success": true})
	})
	m.HandleFunc("GET /zones/z1/dns_records", func(w http.ResponseWriter, r *http.Request) {
		result := []map[string]string{}
		for _, v := range z.values[r.URL.Query().Get("name")] {
			result = append(result, map[string]string{"id": r.URL.Query().Get("name") + "|" + v, "content": quote(v)})
		}
		write(w, 200, map[string]any{"success": true, "result": result})
	})
	m.HandleFunc("DELETE /zones/z1/dns_records/{id}", func(w http.ResponseWriter, r *http.Request) {
		name, value, _ := strings.Cut(r.PathValue("id"), "|")
		z.remove(name, value)
		write(w, 200, map[string]any{"success": true})
	})
	return m
}

func desecAPI(t *testing.T, z *zone) http.Handler {
	full := func(sub string) string {
		if sub == "" || sub == "@" {
			return "example.com"
		}
		return sub + ".example.com"
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /domains/example.com/rrsets/{sub}/TXT/", func(w http.ResponseWriter, r *http.Request) {
		list := z.values[full(r.PathValue("sub"))]
		if len(list) == 0 {
			write(w, 404, map[string]string{"detail": "Not found."})
			return
		}
		quoted := make([]string, len(list))
		for i, v := range list {
			quoted[i] = quote(v)
		}
		write(w, 200, map[string]any{"subname": r.PathValue("sub"), "records": quoted})
	})
	m.HandleFunc("PUT /domains/example.com/rrsets/", func(w http.ResponseWriter, r *http.Request) {
		var in []desecSet
		read(t, r, &in)
		for _, s := range in {
			if s.Type != "TXT" || s.TTL < 3600 {
				t.Errorf("%+v", s)
			}
			z.values[full(s.Subname)] = nil
			for _, v := range s.Records {
				z.add(full(s.Subname), unquote(v))
			}
		}
		write(w, 200, in)
	})
	return m
}

func hetznerAPI(t *testing.T, z *zone) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /zones/example.com/rrsets/{name}/TXT/actions/{action}", func(w http.ResponseWriter, r *http.Request) {
		var in hetznerRecords
		read(t, r, &in)
		name := r.PathValue("name") + ".example.com"
		if r.PathValue("name") == "@" {
			name = "example.com"
		}
		for _, rec := range in.Records {
			switch r.PathValue("action") {
			case "add_records":
				z.add(name, unquote(rec.Value))
			case "remove_records":
				if len(z.values[name]) == 0 {
					write(w, 404, map[string]any{"error": map[string]string{"code": "not_found"}})
					return
				}
				z.remove(name, unquote(rec.Value))
			}
		}
		write(w, 201, map[string]any{"action": map[string]any{"id": 1, "status": "running"}})
	})
	return m
}

// TestProviders adds two values of one name, which a zone and its wildcard need
// at the same time, and takes them out one by one.
func TestProviders(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name, authorization string
		api                 func(*testing.T, *zone) http.Handler
		make                func(api) Provider
	}{
		{model.DNSCloudflare, "Bearer secret", cloudflareAPI, func(a api) Provider { return &cloudflare{a} }},
		{model.DNSDesec, "Token secret", desecAPI, func(a api) Provider { return &desec{api: a} }},
		{model.DNSHetzner, "Bearer secret", hetznerAPI, func(a api) Provider { return &hetzner{a} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z := &zone{values: make(map[string][]string)}
			handler := tt.api(t, z)
			var status int // of every answer, unless 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				z.mu.Lock()
				defer z.mu.Unlock()
				if r.Header.Get("Authorization") != tt.authorization {
					t.Errorf("authorization %q", r.Header.Get("Authorization"))
				}
				if status != 0 {
					w.WriteHeader(status)
					_, _ = io.WriteString(w, "no\x00thing\n"+strings.Repeat("x", 1000))
					return
				}
				handler.ServeHTTP(w, r)
			}))
			defer srv.Close()
			defer srv.Client().CloseIdleConnections()
			p := tt.make(api{srv.Client(), srv.URL, tt.authorization})
			for _, name := range []string{"_acme-challenge.example.com", "_acme-challenge.a.b.example.com", "example.com"} {
				one, two := Record{"example.com", name, "one"}, Record{"example.com", name, "two"}
				for _, step := range []struct {
					do   func(context.Context, Record) error
					rec  Record
					want []string
				}{
					{p.Add, one, []string{"one"}},
					{p.Add, two, []string{"one", "two"}},
					{p.Remove, one, []string{"two"}},
					{p.Remove, one, []string{"two"}},
					{p.Remove, two, nil},
					{p.Remove, two, nil},
				} {
					if err := step.do(ctx, step.rec); err != nil {
						t.Fatal(err)
					}
					if got := z.values[name]; !slices.Equal(got, step.want) {
						t.Errorf("%s: %q, want %q", name, got, step.want)
					}
				}
			}
			for _, status = range []int{401, 403, 429, 500} {
				err := p.Add(ctx, Record{"example.com", "x.example.com", "v"})
				if err == nil || strings.Contains(err.Error(), "secret") || len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\x00\n") {
					t.Errorf("%d: %v", status, err)
				}
				if e, ok := errors.AsType[*apiError](err); !ok || e.status != status {
					t.Errorf("%d: %v", status, err)
				}
			}
		})
	}
}

func TestACMEDNS(t *testing.T) {
	var got map[string]string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/update" || r.Header.Get("X-Api-User") != "u" || r.Header.Get("X-Api-Key") != "p" {
			w.WriteHeader(401)
			return
		}
		read(t, r, &got)
		write(w, 200, map[string]string{"txt": got["txt"]})
	}))
	defer srv.Close()
	defer srv.Client().CloseIdleConnections()
	p := &acmeDNS{api{srv.Client(), srv.URL, ""}, "u", "p", "sub"}
	if err := p.Add(t.Context(), Record{"example.com", "_acme-challenge.example.com", "v"}); err != nil || got["txt"] != "v" || got["subdomain"] != "sub" {
		t.Errorf("%v, %v", err, got)
	}
	p.password = "wrong"
	if err := p.Add(t.Context(), Record{}); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("%v", err)
	}
}

// TestUpdates: signed changes are taken, others are not, and the record is waited
// for at the server that was told.
func TestUpdates(t *testing.T) {
	server := acme.NewZone(t)
	settings := map[string]string{"server": server.Addr, "key_name": acme.KeyName, "key_secret": acme.Secret}
	if err := model.CheckDNSSettings(model.DNSRFC2136, settings); err != nil {
		t.Fatal(err)
	}
	p, err := New(model.DNSRFC2136, settings)
	if err != nil {
		t.Fatal(err)
	}
	r := &Resolver{Servers: []string{server.Addr}}
	one, two := Record{"example.com", "_acme-challenge.example.com", "one"}, Record{"example.com", "_acme-challenge.example.com", "two"}
	for _, rec := range []Record{one, two} {
		if err := p.Add(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range []Record{one, two} {
		if err := r.WaitFor(t.Context(), p, rec); err != nil {
			t.Error(err)
		}
		if err := p.Remove(t.Context(), rec); err != nil {
			t.Error(err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.WaitFor(short, p, one); err == nil || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("what is gone is found: %v", err)
	}
	for name, change := range map[string]func(map[string]string){
		"another key":  func(s map[string]string) { s["key_secret"] = "d3Jvbmc=" },
		"another name": func(s map[string]string) { s["key_name"] = "other" },
	} {
		wrong := map[string]string{"server": server.Addr, "key_name": acme.KeyName, "key_secret": acme.Secret, "key_algorithm": "hmac-sha256"}
		change(wrong)
		bad, err := New(model.DNSRFC2136, wrong)
		if err != nil {
			t.Fatal(err)
		}
		if err := bad.Add(t.Context(), one); err == nil || strings.Contains(err.Error(), wrong["key_secret"]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, left := server.Updates(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := New("mine", nil); err == nil {
		t.Error("an unknown provider is made")
	}
}
