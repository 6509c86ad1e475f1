package peers

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestCreateGateway(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	c := b.create(t, "Home", func(in *Input) {
		in.IsGateway, in.Description, in.DNS = model.Value(true), model.Value("cellar"), model.Value("1.1.1.1")
	})
	if c.Type != model.PeerGateway || c.View.Gateway == nil || *c.Description != "cellar" || len(c.DNS) != 1 {
		t.Fatalf("%+v", c.Peer)
	}
	access := c.View.Gateway
	if access.APIPort != 9876 || access.ProxyPort != 8080 {
		t.Errorf("ports %d, %d", access.APIPort, access.ProxyPort)
	}
	token, push := c.Gateway.APIToken.Reveal(), c.Gateway.PushToken.Reveal()
	if !regexp.MustCompile(`^gc_gw_[a-f0-9]{64}$`).MatchString(token) || !regexp.MustCompile(`^[a-f0-9]{64}$`).MatchString(push) {
		t.Error("the tokens have another form than the gateway's agent takes")
	}
	sum := sha256.Sum256([]byte(token))
	if access.APITokenHash != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("hash %s", access.APITokenHash)
	}
	if opened, err := b.db.Sealer().Open(access.PushToken); err != nil || string(opened) != push {
		t.Errorf("push token: %v", err)
	}
	if env := c.Gateway.EnvContent.Reveal(); !strings.Contains(env, "WG_PRIVATE_KEY="+c.PrivateKey.Base64()+"\n") || !strings.Contains(env, "GC_API_TOKEN="+token+"\n") {
		t.Error("the env file is of another gateway")
	}

	plain := b.create(t, "plain")
	if plain.Gateway != nil || plain.View.Gateway != nil {
		t.Error("a plain peer got what a gateway has")
	}
}

func TestEnvContent(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.known(t, func(p *model.Peer) {
		p.Name, p.Type, p.Gateway = "Home", model.PeerGateway, &model.GatewayAccess{APIPort: 9876, ProxyPort: 8080}
	})
	env := &GatewayEnv{APIToken: model.Secret("gc_gw_" + strings.Repeat("a1", 32)), PushToken: model.Secret(strings.Repeat("b2", 32))}
	golden(t, "gateway.env", b.envContent(p, env, fixedKey(1), fixedKey(2)).Reveal())
	golden(t, "gateway-no-psk.env", b.envContent(p, env, fixedKey(1), model.PrivateKey{}).Reveal())
}

// TestDeleteGateway deletes home gateways that routes lead through: those are
// disabled, and keep what is behind for another gateway.
func TestDeleteGateway(t *testing.T) {
	for name, del := range map[string]func(*bench, *testing.T, model.PeerID) error{
		"one": func(b *bench, t *testing.T, id model.PeerID) error { return b.Delete(t.Context(), id) },
		"batch": func(b *bench, t *testing.T, id model.PeerID) error {
			_, err := b.Batch(t.Context(), "delete", []int64{int64(id)})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			home := func(in *Input) { in.IsGateway = model.Value(true) }
			gone, stays := b.create(t, "gone", home), b.create(t, "stays", home)
			through := func(p Created) model.Target {
				return model.Target{Port: 80, Gateway: &model.GatewayTarget{Peer: p.ID, Host: "nas", Port: 80}}
			}
			b.write(t, func(tx *store.Tx) error {
				for _, r := range []*model.Route{
					{Domain: "a.example.com", Enabled: true, Target: through(gone)},
					{Domain: "b.example.com", Target: through(gone)},
					{Domain: "c.example.com", Enabled: true, Target: through(stays)},
				} {
					r.Type = model.RouteHTTP
					if err := store.Routes.Insert(tx, r); err != nil {
						return err
					}
				}
				return nil
			})
			before := len(b.events(t))
			if err := del(b, t, gone.ID); err != nil {
				t.Fatal(err)
			}
			var told []string
			for _, e := range b.events(t)[before:] {
				told = append(told, e.Type)
			}
			if len(told) != 2 || told[0] != "route_disabled" {
				t.Errorf("events %v", told)
			}
			if err := b.db.View(func(tx *store.Tx) error {
				for id, want := range map[model.RouteID]string{1: "false 0 nas:80", 2: "false 0 nas:80", 3: "true 2 nas:80"} {
					r, err := store.Routes.Get(tx, id)
					if err != nil {
						return err
					}
					if got := fmt.Sprintf("%t %d %s", r.Enabled, r.Target.Gateway.Peer, r.Target.Gateway); got != want || r.Target.Peer != 0 || r.Target.Addr.IsValid() {
						t.Errorf("route %d: %s, want %s; %+v", id, got, want, r.Target)
					}
				}
				left, err := store.Routes.FindAll(tx, "peer", gone.ID.String())
				if len(left) > 0 {
					t.Error("the index still has it")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLastWords has what a peer moved read before it leaves the tunnel, which
// forgets it then.
func TestLastWords(t *testing.T) {
	update := func(in Input) func(*bench, model.PeerID) error {
		return func(b *bench, id model.PeerID) error { _, err := b.Update(t.Context(), id, in); return err }
	}
	for name, leave := range map[string]func(*bench, model.PeerID) error{
		"toggle":                 func(b *bench, id model.PeerID) error { _, err := b.Toggle(t.Context(), id); return err },
		"update":                 update(Input{Enabled: model.Value(false)}),
		"a date that has passed": update(Input{ExpiresAt: model.Value("2026-11-20")}),
		"another end of a quota": update(Input{QuotaAction: model.Value(string(model.QuotaBlock))}),
		"batch": func(b *bench, id model.PeerID) error {
			_, err := b.Batch(t.Context(), "disable", []int64{int64(id)})
			return err
		},
		"expiry": func(b *bench, _ model.PeerID) error {
			b.now = b.now.Add(time.Minute)
			return b.Expire(t.Context(), b.now)
		},
		"deletion": func(b *bench, id model.PeerID) error { return b.Delete(t.Context(), id) },
	} {
		b := newBench(t, "10.8.0.0/24")
		p := b.create(t, "a", expires("2026-11-21T12:00:01Z"), quota(1000, string(model.QuotaNotify)))
		b.move(p, 1000)
		if err := b.CheckQuotas(t.Context(), b.now); err != nil {
			t.Fatal(err)
		}
		live := func() bool {
			var stored *model.Peer
			if err := b.db.View(func(tx *store.Tx) (err error) { stored, err = store.Peers.Get(tx, p.ID); return err }); err != nil {
				t.Fatal(err)
			}
			return stored != nil && stored.Live(b.now)
		}
		if !live() {
			t.Fatalf("%s: it is out before", name)
		}
		reads := b.meter.reads
		if err := leave(b, p.ID); err != nil || live() {
			t.Fatalf("%s: %v", name, err)
		}
		if b.meter.reads == reads {
			t.Errorf("%s: what it moved is lost", name)
		}
	}
}
