package dns01

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
)

// cloudflare is the API of Cloudflare, version 4.
type cloudflare struct{ api }

func (c *cloudflare) zone(ctx context.Context, name string) (string, error) {
	var found struct {
		Result []struct{ ID, Name string }
	}
	if err := c.call(ctx, "GET", "/zones?name="+url.QueryEscape(name), nil, &found); err != nil {
		return "", err
	}
	for _, z := range found.Result {
		if z.Name == name {
			return "/zones/" + url.PathEscape(z.ID), nil
		}
	}
	return "", fmt.Errorf("the token does not reach the zone %s", name)
}

func (c *cloudflare) Add(ctx context.Context, r Record) error {
	zone, err := c.zone(ctx, r.Zone)
	if err != nil {
		return err
	}
	return c.call(ctx, "POST", zone+"/dns_records", map[string]any{"type": "TXT", "name": r.Name, "content": quote(r.Value), "ttl": ttl}, nil)
}

func (c *cloudflare) Remove(ctx context.Context, r Record) error {
	zone, err := c.zone(ctx, r.Zone)
	if err != nil {
		return err
	}
	var found struct {
		Result []struct{ ID, Content string }
	}
	if err := c.call(ctx, "GET", zone+"/dns_records?type=TXT&name="+url.QueryEscape(r.Name), nil, &found); err != nil {
		return err
	}
	for _, rec := range found.Result {
		if unquote(rec.Content) == r.Value {
			err = errors.Join(err, c.call(ctx, "DELETE", zone+"/dns_records/"+url.PathEscape(rec.ID), nil, nil))
		}
	}
	return err
}

// desec is the API of deSEC. Sets of records are written whole there.
type desec struct {
	api
	mu sync.Mutex // from reading a set to writing it
}

// desecTTL is the least that it takes from everyone.
const desecTTL = 3600

type desecSet struct {
	Subname string   `json:"subname"`
	Type    string   `json:"type"`
	TTL     int      `json:"ttl"`
	Records []string `json:"records"`
}

func (d *desec) Add(ctx context.Context, r Record) error {
	return d.change(ctx, r, func(list []string) []string {
		if slices.Contains(list, quote(r.Value)) {
			return list
		}
		return append(list, quote(r.Value))
	})
}

func (d *desec) Remove(ctx context.Context, r Record) error {
	return d.change(ctx, r, func(list []string) []string {
		return slices.DeleteFunc(list, func(v string) bool { return v == quote(r.Value) })
	})
}

// change writes the set anew; one without records is gone.
func (d *desec) change(ctx context.Context, r Record, f func([]string) []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	sets := "/domains/" + url.PathEscape(r.Zone) + "/rrsets/"
	name := r.subname()
	at := name
	if at == "" {
		at = "@"
	}
	var set desecSet
	err := d.call(ctx, "GET", sets+url.PathEscape(at)+"/TXT/", nil, &set)
	if e, ok := errors.AsType[*apiError](err); ok && e.status == http.StatusNotFound {
		err = nil
	}
	if err != nil {
		return err
	}
	before := slices.Clone(set.Records)
	records := f(set.Records)
	if slices.Equal(before, records) {
		return nil
	}
	if records == nil {
		records = []string{}
	}
	return d.call(ctx, "PUT", sets, []desecSet{{Subname: name, Type: "TXT", TTL: desecTTL, Records: records}}, nil)
}

// hetzner is the API of Hetzner Cloud, whose zones go by their names.
type hetzner struct{ api }

type hetznerRecords struct {
	TTL     int             `json:"ttl,omitempty"`
	Records []hetznerRecord `json:"records"`
}

type hetznerRecord struct {
	Value string `json:"value"`
}

func (h *hetzner) action(ctx context.Context, r Record, what string, seconds int) error {
	name := r.subname()
	if name == "" {
		name = "@"
	}
	path := "/zones/" + url.PathEscape(r.Zone) + "/rrsets/" + url.PathEscape(name) + "/TXT/actions/" + what
	return h.call(ctx, "POST", path, hetznerRecords{seconds, []hetznerRecord{{quote(r.Value)}}}, nil)
}

func (h *hetzner) Add(ctx context.Context, r Record) error {
	return h.action(ctx, r, "add_records", ttl)
}

func (h *hetzner) Remove(ctx context.Context, r Record) error {
	err := h.action(ctx, r, "remove_records", 0)
	if e, ok := errors.AsType[*apiError](err); ok && e.status == http.StatusNotFound {
		return nil
	}
	return err
}

// acmeDNS is a server that answers for nothing but challenges: a CNAME at the
// name of the challenge leads to it. It keeps the last two values by itself.
type acmeDNS struct {
	api
	user, password, subdomain string
}

func (a *acmeDNS) Add(ctx context.Context, r Record) error {
	return a.call(ctx, "POST", "/update", map[string]string{"subdomain": a.subdomain, "txt": r.Value}, nil,
		"X-Api-User", a.user, "X-Api-Key", a.password)
}

func (a *acmeDNS) Remove(context.Context, Record) error { return nil }
