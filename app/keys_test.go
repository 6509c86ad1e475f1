package app_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"gatecontrol/app"
	"gatecontrol/demo"
	"gatecontrol/lab"
	"gatecontrol/model"
)

// TestKeysBroughtAlong starts with a server key and a device that exist already:
// neither private key of the device comes here, and the tunnel works.
func TestKeysBroughtAlong(t *testing.T) {
	server, device, psk := model.NewPrivateKey(), model.NewPrivateKey(), model.NewPresharedKey()
	s := lab.Start(t, func(o *app.Options) { o.WGPrivateKey = model.Secret(server.Base64()) })
	var created struct{ Peer struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/peers", map[string]any{
		"name": "own", "public_key": device.Public(), "preshared_key": psk.Base64(),
	}, &created)
	var config string
	s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d/config", created.Peer.ID), nil, &config)
	for _, want := range []string{"PrivateKey = <PRIVATE_KEY>\n", "PublicKey = " + server.Public().String() + "\n", "PresharedKey = " + psk.Base64() + "\n"} {
		if !strings.Contains(config, want) {
			t.Fatalf("the config lacks %q", want)
		}
	}
	p, err := demo.Join(t.Context(), strings.Replace(config, "<PRIVATE_KEY>", device.Base64(), 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	publish(t, s, created.Peer.ID, p, "own.example.test", "with its own key")
	res, err := trusting(t, s).Get("https://own.example.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "with its own key" {
		t.Errorf("%s %q %v", res.Status, body, err)
	}
}
