package app_test

import (
	"net"
	"strconv"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestHTTP3Advertised has answers on TLS say where HTTP/3 is, where it is: not if
// it is switched off, nor if its port is somebody else's, which is no reason not
// to start.
func TestHTTP3Advertised(t *testing.T) {
	for _, tt := range []struct {
		name string
		tune func(*testing.T, *app.Options)
		want string
	}{
		{"on", func(*testing.T, *app.Options) {}, `h3=":443"; ma=86400`},
		{"off", func(_ *testing.T, o *app.Options) { o.HTTP3 = false }, ""},
		{"its port is taken", takePacketPort, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lab.Start(t, func(o *app.Options) { tt.tune(t, o) })
			resp, err := trusting(t, s).Get("https://localhost/health")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := resp.Header.Get("Alt-Svc"); resp.StatusCode != 200 || got != tt.want {
				t.Errorf("status %d, Alt-Svc %q, want %q", resp.StatusCode, got, tt.want)
			}
		})
	}
}

// takePacketPort holds the UDP port beside a TLS port that is free.
func takePacketPort(t *testing.T, o *app.Options) {
	o.HTTPSListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(lab.FreePort(t)))
	pc, err := net.ListenPacket("udp", o.HTTPSListen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
}
