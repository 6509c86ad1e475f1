package api

import (
	"net/http"

	"gatecontrol/model"
)

// LocalHandler serves the commands of the machine's own user. It asks for no
// credential: it belongs on a Unix socket with mode 0600 and nowhere else.
//
//	POST /recover   gives the administrator a new password and returns it
//	GET  /status    what works
func (s *Server) LocalHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /recover", func(w http.ResponseWriter, hr *http.Request) {
		password, err := s.Accounts.ResetAdmin(model.WithActor(hr.Context(), model.System()), s.AdminUser)
		if err != nil {
			s.local(w, hr, nil, err)
			return
		}
		s.local(w, hr, recoverAnswer{Username: s.AdminUser, Password: password.Reveal()}, nil)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, hr *http.Request) {
		h, wg, proxy := s.Health(), s.WG(), s.Proxy()
		s.local(w, hr, localStatus{
			Version: s.Version, Uptime: int(s.now().Sub(s.started).Seconds()),
			DB: h.DB, WireGuard: h.WireGuard, Proxy: h.Proxy,
			Peers: len(wg.Peers), HTTPRoutes: proxy.HTTPRoutes, L4Routes: proxy.L4Routes,
		}, nil)
	})
	return mux
}

type recoverAnswer struct {
	OK       ok     `json:"ok"`
	Username string `json:"username"`
	Password string `json:"password"`
}

type localStatus struct {
	OK         ok     `json:"ok"`
	Version    string `json:"version"`
	Uptime     int    `json:"uptime"`
	DB         bool   `json:"db"`
	WireGuard  bool   `json:"wireguard"`
	Proxy      bool   `json:"proxy"`
	Peers      int    `json:"peers"`
	HTTPRoutes int    `json:"httpRoutes"`
	L4Routes   int    `json:"l4Routes"`
}

func (s *Server) local(w http.ResponseWriter, hr *http.Request, v any, err error) {
	r := &request{Request: hr, header: w.Header()}
	if err != nil {
		s.send(w, r, s.failed(r, err))
		return
	}
	r.header.Set("Cache-Control", "no-store")
	s.send(w, r, jsonAnswer(http.StatusOK, v))
}
