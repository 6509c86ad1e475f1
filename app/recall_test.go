package app_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestQuietPeerAfterRestart restarts a server under a peer that says nothing:
// the server greets it, so that it can be reached again at once.
func TestQuietPeerAfterRestart(t *testing.T) {
	port := uint16(lab.FreePort(t))
	s := lab.Start(t, func(o *app.Options) { o.WGPort = port })
	id, _ := s.Peer(t, "quiet")
	heard := func(s *lab.Server) error { // since this server started
		var out struct {
			Peer struct {
				Rx uint64 `json:"transferRx"`
			} `json:"peer"`
		}
		s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d", id), nil, &out)
		if out.Peer.Rx == 0 {
			return errors.New("nothing was heard")
		}
		return nil
	}
	lab.Eventually(t, 20*time.Second, "handshake", func() error { return heard(s) })
	o := lab.Options(t)
	o.DataDir, o.WGPort = s.Dir, port
	s.Stop(t)

	again := lab.Run(t, o)
	again.Admin.Login(t, lab.User, lab.Password)
	again.API = again.Admin
	lab.Eventually(t, 10*time.Second, "peer that was greeted", func() error { return heard(again) })
}
