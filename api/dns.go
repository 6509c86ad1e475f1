package api

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"gatecontrol/control/peers"
	"gatecontrol/model"
)

type dnsPeerCounts struct {
	Total        int `json:"total"`
	WithHostname int `json:"with_hostname"`
	Admin        int `json:"admin_source"`
	Agent        int `json:"agent_source"`
	Stale        int `json:"stale_source"`
}

// DNSStatus is what the resolver serves. Its name is exported for the schemas.
type DNSStatus struct {
	Enabled   bool          `json:"enabled"`
	Domain    string        `json:"domain"`
	Peers     dnsPeerCounts `json:"peers"`
	HostsFile *string       `json:"hostsFile" doc:"Always null: the resolver is built in"`
}

type dnsStatusAnswer struct {
	OK ok `json:"ok"`
	DNSStatus
}

func (s *Server) getDNSStatus(ctx context.Context, _ *request, _ *none) (dnsStatusAnswer, error) {
	list, err := s.allPeers(ctx)
	return dnsStatusAnswer{DNSStatus: s.dnsStatus(list)}, err
}

type dnsStatic struct {
	FQDN string `json:"fqdn"`
	IP   string `json:"ip"`
}

type dnsPeer struct {
	ID         model.PeerID `json:"id"`
	Name       string       `json:"name"`
	Hostname   *string      `json:"hostname"`
	Source     *string      `json:"hostname_source"`
	ReportedAt *string      `json:"hostname_reported_at"`
	IP         string       `json:"ip"`
	FQDN       *string      `json:"fqdn"`
}

type dnsRecordsAnswer struct {
	OK     ok          `json:"ok"`
	Status DNSStatus   `json:"status"`
	Static []dnsStatic `json:"staticRecords"`
	Peers  []dnsPeer   `json:"peers"`
}

func (s *Server) dnsRecords(ctx context.Context, _ *request, _ *none) (dnsRecordsAnswer, error) {
	list, err := s.allPeers(ctx)
	if err != nil {
		return dnsRecordsAnswer{}, err
	}
	slices.SortFunc(list, func(a, b peers.View) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.ID, b.ID))
	})
	a := dnsRecordsAnswer{Status: s.dnsStatus(list), Peers: make([]dnsPeer, len(list))}
	for _, label := range []string{"gateway", "server", "gc-server"} {
		a.Static = append(a.Static, dnsStatic{label + "." + s.DNS.Domain, s.DNS.Gateway.String()})
	}
	for i := range list {
		p := &list[i]
		a.Peers[i] = dnsPeer{
			ID: p.ID, Name: p.Name, Hostname: orNull(p.Hostname), Source: orNull(string(p.HostnameSource)),
			ReportedAt: dtOrNull(p.HostnameReportedAt), IP: p.Address().String(),
		}
		if p.Hostname != "" {
			a.Peers[i].FQDN = orNull(p.Hostname + "." + s.DNS.Domain)
		}
	}
	return a, nil
}

func (s *Server) dnsStatus(list []peers.View) DNSStatus {
	st := DNSStatus{Enabled: s.DNS.Enabled, Domain: s.DNS.Domain}
	st.Peers.Total = len(list)
	for i := range list {
		switch list[i].HostnameSource {
		case model.HostnameAdmin:
			st.Peers.Admin++
		case model.HostnameAgent:
			st.Peers.Agent++
		case model.HostnameStale:
			st.Peers.Stale++
		}
		if list[i].Hostname != "" {
			st.Peers.WithHostname++
		}
	}
	return st
}

// allPeers reads page by page, so that no one transaction is long.
func (s *Server) allPeers(ctx context.Context) (all []peers.View, err error) {
	for {
		page, total, err := s.Peers.List(ctx, peers.MaxPage, len(all))
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(page) == 0 || len(all) >= total {
			return all, nil
		}
	}
}
