package api

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"slices"
	"strings"

	"gatecontrol/control/peers"
	"gatecontrol/model"
)

type wgInterface struct {
	PublicKey  string `json:"publicKey"`
	ListenPort uint16 `json:"listenPort"`
	FWMark     string `json:"fwmark"`
}

type wgPeer struct {
	PublicKey       string  `json:"publicKey"`
	HasPresharedKey bool    `json:"hasPresharedKey"`
	Endpoint        *string `json:"endpoint"`
	AllowedIPs      string  `json:"allowedIps"`
	LatestHandshake int64   `json:"latestHandshake"`
	TransferRx      uint64  `json:"transferRx"`
	TransferTx      uint64  `json:"transferTx"`
	Keepalive       uint16  `json:"persistentKeepalive"`
	IsOnline        bool    `json:"isOnline"`
}

type wgAnswer struct {
	OK        ok           `json:"ok"`
	Running   bool         `json:"running"`
	Interface *wgInterface `json:"interface"`
	Peers     []wgPeer     `json:"peers"`
}

func (s *Server) wgStatus(context.Context, *request, *none) (wgAnswer, error) {
	st := s.WG()
	a := wgAnswer{Running: st.Running, Peers: []wgPeer{}}
	if !st.Running {
		return a, nil
	}
	a.Interface = &wgInterface{PublicKey: st.PublicKey.String(), ListenPort: st.ListenPort, FWMark: "off"}
	now := s.now()
	for i := range st.Peers {
		p := &st.Peers[i]
		v := wgPeer{
			PublicKey: p.PublicKey.String(), HasPresharedKey: p.HasPresharedKey, AllowedIPs: prefixes(p.AllowedIPs),
			LatestHandshake: unix(p.LastHandshake), TransferRx: p.RxBytes, TransferTx: p.TxBytes,
			Keepalive: p.Keepalive, IsOnline: p.Online(now),
		}
		if p.Endpoint.IsValid() {
			v.Endpoint = orNull(p.Endpoint.String())
		}
		a.Peers = append(a.Peers, v)
	}
	return a, nil
}

type proxyAnswer struct {
	OK         ok      `json:"ok"`
	Running    bool    `json:"running"`
	PID        int     `json:"pid"`
	Uptime     int     `json:"uptime_s"`
	AdminAPI   *string `json:"admin_api"`
	HTTPRoutes int     `json:"httpRoutes"`
	L4Routes   int     `json:"l4Routes"`
}

func (s *Server) proxyStatus(context.Context, *request, *none) (proxyAnswer, error) {
	p := s.Proxy()
	a := proxyAnswer{Running: p.Running, PID: os.Getpid(), HTTPRoutes: p.HTTPRoutes, L4Routes: p.L4Routes}
	if p.Running {
		a.Uptime = int(s.now().Sub(p.Started).Seconds())
	}
	return a, nil
}

type successAnswer struct {
	OK      ok   `json:"ok"`
	Success bool `json:"success"`
}

func (s *Server) proxyReload(ctx context.Context, _ *request, _ *none) (successAnswer, error) {
	return successAnswer{Success: true}, s.Reload(ctx)
}

type statsAnswer struct {
	OK    ok `json:"ok"`
	Peers struct {
		Total  int `json:"total"`
		Online int `json:"online"`
	} `json:"peers"`
	Routes struct {
		Active int `json:"active"`
	} `json:"routes"`
	Monitoring struct {
		Total int `json:"total"`
		Up    int `json:"up"`
		Down  int `json:"down"`
	} `json:"monitoring"`
	Traffic struct {
		Today         uint64 `json:"today"`
		TodayUpload   uint64 `json:"todayUpload"`
		TodayDownload uint64 `json:"todayDownload"`
		UploadRate    uint64 `json:"uploadRate"`
		DownloadRate  uint64 `json:"downloadRate"`
	} `json:"traffic"`
	WireGuard struct {
		Running bool `json:"running"`
	} `json:"wireguard"`
	Latency *float64 `json:"latency"`
}

func (s *Server) stats(context.Context, *request, *none) (a statsAnswer, err error) {
	wg, proxy, traffic, now := s.WG(), s.Proxy(), s.Traffic(), s.now()
	a.Peers.Total = len(wg.Peers) // the tunnel has every enabled peer
	for i := range wg.Peers {
		if wg.Peers[i].Online(now) {
			a.Peers.Online++
		}
	}
	a.Routes.Active = proxy.HTTPRoutes + proxy.L4Routes
	a.Traffic.TodayUpload, a.Traffic.TodayDownload = traffic.TodayUpload, traffic.TodayDownload
	a.Traffic.Today = traffic.TodayUpload + traffic.TodayDownload
	a.Traffic.UploadRate, a.Traffic.DownloadRate = traffic.UploadRate, traffic.DownloadRate
	a.WireGuard.Running = wg.Running
	return a, nil
}

type dnsPeerCounts struct {
	Total        int `json:"total"`
	WithHostname int `json:"with_hostname"`
	Admin        int `json:"admin_source"`
	Agent        int `json:"agent_source"`
	Stale        int `json:"stale_source"`
}

type dnsStatus struct {
	Enabled   bool          `json:"enabled"`
	Domain    string        `json:"domain"`
	Peers     dnsPeerCounts `json:"peers"`
	HostsFile *string       `json:"hostsFile" doc:"Always null: the resolver is built in"`
}

type dnsStatusAnswer struct {
	OK ok `json:"ok"`
	dnsStatus
}

func (s *Server) getDNSStatus(ctx context.Context, _ *request, _ *none) (dnsStatusAnswer, error) {
	list, err := s.allPeers(ctx)
	return dnsStatusAnswer{dnsStatus: s.dnsStatus(list)}, err
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
	Status dnsStatus   `json:"status"`
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

func (s *Server) dnsStatus(list []peers.View) dnsStatus {
	st := dnsStatus{Enabled: s.DNS.Enabled, Domain: s.DNS.Domain}
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

type backupQuery struct {
	Format string `query:"format" doc:"download: as a file, which it is in any case"`
}

func (s *Server) getBackup(ctx context.Context, _ *request, _ *backupQuery) (responder, error) {
	archive, err := s.Backup.Export(ctx)
	if err != nil {
		return nil, err
	}
	a := jsonAnswer(http.StatusOK, archive)
	return file{typeJSON, "gatecontrol-backup-" + s.now().UTC().Format("2006-01-02") + ".json", a.body}, nil
}

// health is short for strangers: only who may see the rest gets it.
type healthAnswer struct {
	OK        bool   `json:"ok"`
	Status    string `json:"status" enum:"healthy,unhealthy"`
	DB        *bool  `json:"db,omitempty"`
	WireGuard *bool  `json:"wireguard,omitempty"`
	Proxy     *bool  `json:"caddy,omitempty"`
	Version   string `json:"version,omitempty"`
	Uptime    *int   `json:"uptime,omitempty"`
}

func (s *Server) health(_ context.Context, r *request, _ *none) (responder, error) {
	h := s.Health()
	a := healthAnswer{OK: h.DB && h.WireGuard && h.Proxy, Status: "healthy"}
	status := http.StatusOK
	if !a.OK {
		a.Status, status = "unhealthy", http.StatusServiceUnavailable
	}
	if r.session != nil || r.peer.direct && r.peer.addr.IsLoopback() {
		uptime := int(s.now().Sub(s.started).Seconds())
		a.DB, a.WireGuard, a.Proxy, a.Version, a.Uptime = &h.DB, &h.WireGuard, &h.Proxy, s.Version, &uptime
	}
	return jsonOf{status, a}, nil
}
