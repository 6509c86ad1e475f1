package peers

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"gatecontrol/model"
)

// GatewayEnv is what a new home gateway is told once: its token towards this
// server, this server's token towards it, and the file that holds both.
type GatewayEnv struct {
	APIToken   model.Secret // "gc_gw_" and 64 lower-case hex characters
	PushToken  model.Secret // 64 lower-case hex characters
	EnvContent model.Secret // gateway.env
}

// gatewayTokens makes the tokens of a gateway and the form in which they are
// stored.
func (s *Service) gatewayTokens(api, proxy uint16) (*GatewayEnv, *model.GatewayAccess) {
	token, push := "gc_gw_"+randomHex(), randomHex()
	sum := sha256.Sum256([]byte(token))
	return &GatewayEnv{APIToken: model.Secret(token), PushToken: model.Secret(push)},
		&model.GatewayAccess{
			APIPort: api, ProxyPort: proxy,
			APITokenHash: "sha256:" + hex.EncodeToString(sum[:]),
			PushToken:    s.o.DB.Sealer().Seal([]byte(push)),
		}
}

func randomHex() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// envContent writes gateway.env: one KEY=value a line, no quotes. No value can
// hold a line break: names and addresses are checked, keys and tokens are ours.
// The gateway routes only this server's address through the tunnel, so that the
// network of the machine it runs on stays as it is.
func (s *Service) envContent(p *model.Peer, env *GatewayEnv, private, preshared model.PrivateKey) model.Secret {
	t := &s.o.Tunnel
	var b strings.Builder
	line := func(key, value string) { fmt.Fprintf(&b, "%s=%s\n", key, value) }
	fmt.Fprintf(&b, "# GateControl home gateway\n# peer %s (id %d), %s\n\n", p.Name, p.ID, p.CreatedAt.UTC().Format("2006-01-02T15:04:05Z"))
	line("GC_SERVER_URL", t.BaseURL)
	line("GC_API_TOKEN", env.APIToken.Reveal())
	line("GC_GATEWAY_TOKEN", env.PushToken.Reveal())
	line("GC_TUNNEL_IP", p.Address().String())
	line("GC_PROXY_PORT", fmt.Sprint(p.Gateway.ProxyPort))
	line("GC_API_PORT", fmt.Sprint(p.Gateway.APIPort))
	line("GC_HEARTBEAT_INTERVAL_S", "30")
	line("GC_POLL_INTERVAL_S", "300")
	b.WriteString("\n# WireGuard\n")
	line("WG_PRIVATE_KEY", private.Base64())
	line("WG_PUBLIC_KEY", p.PublicKey.String())
	psk := ""
	if !preshared.IsZero() {
		psk = preshared.Base64()
	}
	line("WG_PRESHARED_KEY", psk)
	line("WG_ENDPOINT", t.Endpoint)
	line("WG_SERVER_PUBLIC_KEY", t.ServerKey.String())
	line("WG_ADDRESS", p.Address().String()+"/32")
	line("WG_ALLOWED_IPS", t.Gateway.String()+"/32")
	line("WG_DNS", t.Gateway.String())
	return model.Secret(b.String())
}
