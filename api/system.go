package api

import (
	"context"
	"os"

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

func (s *Server) stats(ctx context.Context, _ *request, _ *none) (a statsAnswer, err error) {
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
	monitored, err := s.Routes.Monitored(ctx)
	a.Monitoring.Total = len(monitored)
	for _, m := range monitored {
		switch m.Status {
		case model.StatusUp:
			a.Monitoring.Up++
		case model.StatusDown:
			a.Monitoring.Down++
		}
	}
	return a, err
}
