package api

import (
	"context"
	"net/http"
)

// healthAnswer is short for strangers: the rest is for whoever is signed in, and
// for this machine itself.
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
