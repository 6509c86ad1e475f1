// Package dns01 proves to an authority that a name is ours by a record in its
// zone (RFC 8555, section 8.4): it puts the record where a provider of DNS keeps
// the zone, waits until the zone's servers answer with it, and takes it out. It
// also asks what an authority would ask of the DNS. Of ours it imports model.
//
// The providers are written here, in a few lines each, because the modules that
// speak to them are not to be had from every module proxy.
package dns01

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gatecontrol/model"
)

// Record is a TXT record. Names have no dot at the end.
type Record struct {
	Zone  string
	Name  string // the full one
	Value string // without quotes; at most 255 bytes
}

// subname is the name of r within its zone.
func (r Record) subname() string { return strings.TrimSuffix(strings.TrimSuffix(r.Name, r.Zone), ".") }

// Provider changes a zone. Its methods may be called from any goroutine.
type Provider interface {
	// Add puts a record into the zone and leaves others of its name.
	Add(ctx context.Context, r Record) error
	// Remove takes exactly that record out. That it is not there is no error.
	Remove(ctx context.Context, r Record) error
}

// ttl of the records, in seconds, where the provider lets us choose.
const ttl = 60

// New returns the provider of a zone with the settings that
// model.CheckDNSSettings has checked. Calls end after 20 s.
func New(provider string, settings map[string]string) (Provider, error) {
	client := &http.Client{Timeout: 20 * time.Second}
	switch provider {
	case model.DNSRFC2136:
		return newUpdater(settings), nil
	case model.DNSCloudflare:
		return &cloudflare{api{client, "https://api.cloudflare.com/client/v4", "Bearer " + settings["api_token"]}}, nil
	case model.DNSDesec:
		return &desec{api: api{client, "https://desec.io/api/v1", "Token " + settings["token"]}}, nil
	case model.DNSHetzner:
		return &hetzner{api{client, "https://api.hetzner.cloud/v1", "Bearer " + settings["api_token"]}}, nil
	case model.DNSACMEDNS:
		return &acmeDNS{
			api:  api{client, strings.TrimSuffix(settings["server"], "/"), ""},
			user: settings["username"], password: settings["password"], subdomain: settings["subdomain"],
		}, nil
	}
	return nil, fmt.Errorf("there is no provider %q", provider)
}
