package routes

import (
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"gatecontrol/model"
)

// Access says who is let in.
type Access struct {
	ExternalEnabled model.Field[bool]   `json:"external_enabled" doc:"Reached from everywhere, not from the tunnel alone"`
	BlockAction     model.Field[string] `json:"external_block_action" doc:"What others get: inherit, not_found, custom, redirect or empty"`
	BlockBody       model.Field[string] `json:"external_block_body"`
	BlockURL        model.Field[string] `json:"external_block_redirect_url"`

	ACLEnabled model.Field[bool]           `json:"acl_enabled"`
	ACLPeers   model.Column[model.Numbers] `json:"acl_peers"`
	ACLPeerIDs model.Column[model.Numbers] `json:"acl_peer_ids" doc:"The same as acl_peers"`

	IPFilterEnabled model.Field[bool]                     `json:"ip_filter_enabled"`
	IPFilterMode    model.Field[string]                   `json:"ip_filter_mode" doc:"whitelist or blacklist"`
	IPFilterRules   model.Column[model.List[IPRuleInput]] `json:"ip_filter_rules"`

	BasicAuthEnabled  model.Field[bool]   `json:"basic_auth_enabled"`
	BasicAuthUser     model.Field[string] `json:"basic_auth_user"`
	BasicAuthPassword model.Field[string] `json:"basic_auth_password" doc:"Is never told"`
	hash              string              // of the password, if one was sent

	ClientTLSEnabled model.Field[bool]   `json:"client_tls_enabled" doc:"Clients need a certificate"`
	ClientTLSCA      model.Field[string] `json:"client_tls_ca" doc:"The authorities that issue them, as PEM"`
}

// IPRuleInput is one element of ip_filter_rules.
type IPRuleInput struct {
	Type  model.Field[string] `json:"type"`
	Value model.Field[string] `json:"value"`
}

// UnmarshalJSON reads an object.
func (in *IPRuleInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *Access) apply(w *model.Web, r *model.Route, known roster, bad *model.Invalids) {
	set(&w.External, in.ExternalEnabled)
	in.applyBlock(&w.Block, r, bad)
	in.applyACL(&w.ACL, r, known, bad)
	in.applyIPFilter(&w.IPFilter, bad)
	in.applyBasicAuth(&w.BasicAuth, bad)
	in.applyClientTLS(&w.ClientTLS, bad)
}

func (in *Access) applyBlock(b *model.BlockReply, r *model.Route, bad *model.Invalids) {
	if in.BlockAction.Set {
		b.Action = in.BlockAction.Or(model.BlockInherit)
	}
	text(&b.Body, in.BlockBody)
	text(&b.URL, in.BlockURL)
	b.URL = strings.TrimSpace(b.URL)
	b.Check("external_block_", bad)
	if b.Action == model.BlockRedirect && b.URL != "" && model.LeadsTo(b.URL, r.Domain) {
		bad.Add("external_block_redirect_url", "must not lead back to this route")
	}
}

// applyACL takes the list under either name. On create it counts only if the
// switch is on.
func (in *Access) applyACL(a *model.ACL, r *model.Route, known roster, bad *model.Invalids) {
	set(&a.Enabled, in.ACLEnabled)
	list, name := in.ACLPeers, "acl_peers"
	if !list.Set {
		list, name = in.ACLPeerIDs, "acl_peer_ids"
	} else if in.ACLPeerIDs.Set && !slices.Equal(list.Value, in.ACLPeerIDs.Value) {
		bad.Add("acl_peer_ids", "is another list than acl_peers")
		return
	}
	if !list.Set || r.ID == 0 && !a.Enabled {
		return
	}
	if len(list.Value) > maxACL {
		bad.Add(name, "must be at most %d peers", maxACL)
		return
	}
	a.Peers = nil
	for i, n := range list.Value {
		id := model.PeerID(n)
		if !known[id] {
			bad.Add(fmt.Sprintf("%s[%d]", name, i), "there is no peer %d", n)
		}
		if !slices.Contains(a.Peers, id) {
			a.Peers = append(a.Peers, id)
		}
	}
}

// maxACL bounds the peers of an ACL. Who trusts more of them has a group in mind.
const maxACL = 500

func (in *Access) applyIPFilter(f *model.IPFilter, bad *model.Invalids) {
	set(&f.Enabled, in.IPFilterEnabled)
	if in.IPFilterMode.Set {
		f.Mode = in.IPFilterMode.Or(model.FilterWhitelist)
	}
	if f.Mode != model.FilterWhitelist && f.Mode != model.FilterBlacklist {
		bad.Add("ip_filter_mode", "must be %s or %s", model.FilterWhitelist, model.FilterBlacklist)
	}
	if !in.IPFilterRules.Set {
		return
	}
	f.Rules = nil
	if len(in.IPFilterRules.Value) > model.MaxIPRules {
		bad.Add("ip_filter_rules", "must be at most %d rules", model.MaxIPRules)
		return
	}
	for i, in := range in.IPFilterRules.Value {
		rule, err := model.ParseIPRule(in.Type.Value, in.Value.Value)
		if err != nil {
			bad.Add(fmt.Sprintf("ip_filter_rules[%d]", i), "%s", err)
		}
		f.Rules = append(f.Rules, rule)
	}
}

// Bounds of a password for a route, in characters.
const (
	minBasicAuth = 8
	maxBasicAuth = 128
)

var basicAuthUser = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

// checkPassword refuses a password that could not be sent or remembered.
func checkPassword(password string) error {
	n := utf8.RuneCountInString(password)
	if n < minBasicAuth || n > maxBasicAuth {
		return model.Invalid("basic_auth_password", "must be %d to %d characters", minBasicAuth, maxBasicAuth)
	}
	if strings.ContainsFunc(password, func(c rune) bool { return c < ' ' || c == 0x7f }) { // RFC 7617, section 2
		return model.Invalid("basic_auth_password", "must not have control characters")
	}
	return nil
}

// applyBasicAuth switches it on without being told so where it is given what it
// needs. Off forgets both.
func (in *Access) applyBasicAuth(a *model.BasicAuth, bad *model.Invalids) {
	user, password := in.BasicAuthUser.Value, in.BasicAuthPassword.Value
	set(&a.Enabled, in.BasicAuthEnabled)
	if !in.BasicAuthEnabled.Set || in.BasicAuthEnabled.Null {
		a.Enabled = a.Enabled || user != "" || password != ""
	}
	if !a.Enabled {
		*a = model.BasicAuth{}
		return
	}
	text(&a.User, in.BasicAuthUser)
	if password != "" {
		bad.AddError(checkPassword(password))
		a.Hash = in.hash
	}
	switch {
	case a.User == "":
		bad.Add("basic_auth_user", "is required")
	case !basicAuthUser.MatchString(a.User):
		bad.Add("basic_auth_user", "must be 1 to 64 letters, digits and . _ @ -")
	}
	if a.Hash == "" {
		bad.Add("basic_auth_password", "is required")
	}
}

// Bounds of the authorities of a route. All of them are named to clients in each
// handshake.
const (
	maxClientCA  = 64 << 10
	maxClientCAs = 16
)

func (in *Access) applyClientTLS(c *model.ClientTLS, bad *model.Invalids) {
	set(&c.Enabled, in.ClientTLSEnabled)
	text(&c.CA, in.ClientTLSCA)
	if in.ClientTLSCA.Value != "" {
		if err := checkCA(c.CA); err != nil {
			bad.Add("client_tls_ca", "%s", err)
		}
	}
	if c.Enabled && c.CA == "" {
		bad.Add("client_tls_ca", "is required")
	}
}

// checkCA refuses what is not one or more certificates of authorities. A private
// key among them is not stored either.
func checkCA(text string) error {
	if len(text) > maxClientCA {
		return fmt.Errorf("must be at most %d KiB", maxClientCA>>10)
	}
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil && n > 0 && strings.TrimSpace(string(rest)) == "":
			return nil
		case block == nil || block.Type != "CERTIFICATE":
			return fmt.Errorf("must be certificates as PEM and nothing else")
		case n == maxClientCAs:
			return fmt.Errorf("must be at most %d certificates", maxClientCAs)
		}
		cert, err := model.ReadCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d %w", n+1, err)
		}
		if !cert.IsCA {
			return fmt.Errorf("certificate %d is not that of an authority", n+1)
		}
	}
}
