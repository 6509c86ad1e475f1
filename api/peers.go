package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"

	"gatecontrol/control/peers"
	"gatecontrol/model"
)

// PeerView is a peer as the API shows one: the row of GateControl, the live
// fields, and the two names that its guide uses (contract-admin section 8.3). It
// has an exported name since it is embedded, which the schemas show only then.
type PeerView struct {
	ID                 model.PeerID   `json:"id"`
	Name               string         `json:"name"`
	Description        *string        `json:"description"`
	PublicKey          string         `json:"public_key"`
	AllowedIPs         string         `json:"allowed_ips"`
	Endpoint           *string        `json:"endpoint"`
	DNS                *string        `json:"dns"`
	Keepalive          uint16         `json:"persistent_keepalive"`
	Enabled            int01          `json:"enabled"`
	StoredRx           uint64         `json:"transfer_rx"`
	StoredTx           uint64         `json:"transfer_tx"`
	StoredHandshake    int64          `json:"latest_handshake"`
	TotalRx            uint64         `json:"total_rx"`
	TotalTx            uint64         `json:"total_tx"`
	Tags               string         `json:"tags"`
	ExpiresAt          *string        `json:"expires_at"`
	GroupID            *model.GroupID `json:"group_id"`
	Hostname           *string        `json:"hostname"`
	HostnameSource     *string        `json:"hostname_source"`
	HostnameReportedAt *string        `json:"hostname_reported_at"`
	PeerType           model.PeerType `json:"peer_type"`
	UserID             *model.UserID  `json:"user_id"`
	OwnerName          *string        `json:"owner_name"`
	CreatedAt          string         `json:"created_at"`
	UpdatedAt          string         `json:"updated_at"`

	IsOnline        bool   `json:"isOnline"`
	LatestHandshake int64  `json:"latestHandshake" doc:"Seconds since 1970, 0 is never"`
	TransferRx      uint64 `json:"transferRx" doc:"Bytes received from the peer since the tunnel started"`
	TransferTx      uint64 `json:"transferTx" doc:"Bytes sent to the peer since the tunnel started"`
	IP              string `json:"ip"`
	Status          string `json:"status" enum:"online,offline"`

	// Ours, beyond the contract. Up is what the peer sends, rx what the server receives.
	IP6            *string           `json:"ip6" doc:"The address beside ip, null without IPv6 in the tunnel"`
	RxPackets      uint64            `json:"rx_packets" doc:"Packets received from the peer since the tunnel started"`
	TxPackets      uint64            `json:"tx_packets" doc:"Packets sent to the peer since the tunnel started"`
	TotalRxPackets uint64            `json:"total_rx_packets"`
	TotalTxPackets uint64            `json:"total_tx_packets"`
	RateLimitUp    *uint64           `json:"rate_limit_up" doc:"Bits per second that the peer may send; null is no limit"`
	RateLimitDown  *uint64           `json:"rate_limit_down" doc:"Bits per second that the peer may receive; null is no limit"`
	QuotaBytes     *uint64           `json:"quota_bytes" doc:"Bytes per calendar month (UTC), both directions together; null is no quota"`
	QuotaAction    model.QuotaAction `json:"quota_action" enum:"block,notify" doc:"block: a peer that has used up its quota is cut until the next month or a higher quota; notify: an event only"`
	QuotaUsed      uint64            `json:"quota_used_bytes" doc:"Bytes in this month, both directions together, with a quota or without"`
	QuotaResetsAt  *string           `json:"quota_resets_at"`
	QuotaExceeded  bool              `json:"quota_exceeded"`
	Isolated       bool              `json:"isolated" doc:"Neither reaches other peers nor is reached by them; its group may say so, too"`
	NoExit         bool              `json:"no_exit" doc:"Does not reach the internet through this server; its group may say so, too"`
	Trusted        bool              `json:"trusted" doc:"May open the ports of a home gateway"`
}

func viewPeer(p *peers.View) PeerView {
	v := PeerView{
		ID: p.ID, Name: p.Name, Description: p.Description, PublicKey: p.PublicKey.String(),
		AllowedIPs: prefixes(p.AllowedIPs), DNS: joined(p.DNS), Keepalive: p.Keepalive, Enabled: bit(p.Enabled),
		TotalRx: p.Counters.TotalRx, TotalTx: p.Counters.TotalTx, Tags: p.Tags, ExpiresAt: isoOrNull(p.ExpiresAt),
		Hostname: orNull(p.Hostname), HostnameSource: orNull(string(p.HostnameSource)),
		HostnameReportedAt: dtOrNull(p.HostnameReportedAt), PeerType: p.Type,
		CreatedAt: dt(p.CreatedAt), UpdatedAt: dt(p.UpdatedAt),
		IsOnline: p.Online, LatestHandshake: unix(p.Counters.LastHandshake), IP: p.Address().String(), Status: "offline",

		TotalRxPackets: p.Counters.TotalRxPackets, TotalTxPackets: p.Counters.TotalTxPackets,
		RateLimitUp: numberOrNull(p.RateLimitUp), RateLimitDown: numberOrNull(p.RateLimitDown),
		QuotaBytes: numberOrNull(p.QuotaBytes), QuotaAction: p.OnQuota(), QuotaUsed: p.QuotaUsed, QuotaExceeded: p.QuotaExceeded,
		Isolated: p.Isolated, NoExit: p.NoExit, Trusted: p.Trusted,
	}
	if p.QuotaBytes != 0 {
		v.QuotaResetsAt = isoOrNull(&p.QuotaResets)
	}
	if p.Address6.IsValid() {
		v.IP6 = orNull(p.Address6.String())
	}
	if p.Group != 0 {
		v.GroupID = &p.Group
	}
	if p.User != 0 {
		v.UserID = &p.User
	}
	if p.Online {
		v.Status = "online"
	}
	if st := p.Status; st != nil {
		if st.Endpoint.IsValid() {
			v.Endpoint = orNull(st.Endpoint.String())
		}
		if !st.LastHandshake.IsZero() {
			v.LatestHandshake = unix(st.LastHandshake)
		}
		v.TransferRx, v.TransferTx = st.RxBytes, st.TxBytes
		v.RxPackets, v.TxPackets = st.RxPackets, st.TxPackets
	}
	v.StoredRx, v.StoredTx, v.StoredHandshake = v.TransferRx, v.TransferTx, v.LatestHandshake
	return v
}

type pageQuery struct {
	Limit  int `query:"limit" default:"250" min:"1" max:"250"`
	Offset int `query:"offset"`
}

type peersAnswer struct {
	OK     ok         `json:"ok"`
	Peers  []PeerView `json:"peers"`
	Limit  int        `json:"limit"`
	Offset int        `json:"offset"`
	Total  int        `json:"total"`
}

func (s *Server) listPeers(ctx context.Context, _ *request, in *pageQuery) (peersAnswer, error) {
	list, total, err := s.Peers.List(ctx, in.Limit, in.Offset)
	if err != nil {
		return peersAnswer{}, err
	}
	a := peersAnswer{Peers: make([]PeerView, len(list)), Limit: in.Limit, Offset: in.Offset, Total: total}
	for i := range list {
		a.Peers[i] = viewPeer(&list[i])
	}
	return a, nil
}

type peerID struct {
	ID model.PeerID `path:"id"`
}

type peerAnswer struct {
	OK   ok       `json:"ok"`
	Peer PeerView `json:"peer"`
}

func answerPeer(v peers.View, err error) (peerAnswer, error) {
	if err != nil {
		return peerAnswer{}, err
	}
	return peerAnswer{Peer: viewPeer(&v)}, nil
}

func (s *Server) getPeer(ctx context.Context, _ *request, in *peerID) (peerAnswer, error) {
	return answerPeer(s.Peers.Get(ctx, in.ID))
}

type newPeer struct {
	Body peers.Input
}

// createdPeer is the row and, under the names that GateControl uses there, what
// is told once: the only answer with a private key besides the config.
type createdPeer struct {
	PeerView
	PublicKeyOnce string  `json:"publicKey"`
	PrivateKey    *string `json:"privateKey"`
	PresharedKey  *string `json:"presharedKey"`
	AllowedIPOnce string  `json:"allowedIps"`
	IPAddress     string  `json:"ip_address"`
}

type gatewayTokens struct {
	APIToken   string `json:"apiToken"`
	PushToken  string `json:"pushToken"`
	EnvContent string `json:"envContent" doc:"A ready gateway.env"`
}

type createdPeerAnswer struct {
	OK      ok             `json:"ok"`
	Peer    createdPeer    `json:"peer"`
	Gateway *gatewayTokens `json:"gateway,omitempty"`
}

func (s *Server) createPeer(ctx context.Context, _ *request, in *newPeer) (createdPeerAnswer, error) {
	made, err := s.Peers.Create(ctx, in.Body)
	if err != nil {
		return createdPeerAnswer{}, err
	}
	row := viewPeer(&made.View)
	a := createdPeerAnswer{Peer: createdPeer{
		PeerView: row, PublicKeyOnce: row.PublicKey, PrivateKey: keyOrNull(made.PrivateKey), PresharedKey: keyOrNull(made.PresharedKey),
		AllowedIPOnce: row.AllowedIPs, IPAddress: row.IP,
	}}
	if g := made.Gateway; g != nil {
		a.Gateway = &gatewayTokens{g.APIToken.Reveal(), g.PushToken.Reveal(), g.EnvContent.Reveal()}
	}
	return a, nil
}

func keyOrNull(k model.PrivateKey) *string {
	if k.IsZero() {
		return nil
	}
	return orNull(k.Base64())
}

type peerChange struct {
	ID   model.PeerID `path:"id"`
	Body peers.Input
}

func (s *Server) updatePeer(ctx context.Context, _ *request, in *peerChange) (peerAnswer, error) {
	return answerPeer(s.Peers.Update(ctx, in.ID, in.Body))
}

func (s *Server) togglePeer(ctx context.Context, _ *request, in *peerID) (peerAnswer, error) {
	return answerPeer(s.Peers.Toggle(ctx, in.ID))
}

func (s *Server) deletePeer(ctx context.Context, _ *request, in *peerID) (done, error) {
	err := s.Peers.Delete(ctx, in.ID)
	if err == nil {
		s.Accounts.Forget() // tokens bound to the peer are no longer
	}
	return done{}, err
}

type batch struct {
	Body struct {
		Action model.Field[string]  `json:"action"`
		IDs    model.Field[[]int64] `json:"ids"`
	}
}

type batchAnswer struct {
	OK       ok  `json:"ok"`
	Affected int `json:"affected"`
}

func (s *Server) batchPeers(ctx context.Context, _ *request, in *batch) (batchAnswer, error) {
	n, err := s.Peers.Batch(ctx, in.Body.Action.Value, in.Body.IDs.Value)
	if err == nil && in.Body.Action.Value == "delete" {
		s.Accounts.Forget()
	}
	return batchAnswer{Affected: n}, err
}

type hostnameChange struct {
	ID   model.PeerID `path:"id"`
	Body struct {
		Hostname model.Field[string] `json:"hostname"`
	}
}

type hostnameAnswer struct {
	OK       ok       `json:"ok"`
	Peer     PeerView `json:"peer"`
	Assigned *string  `json:"assigned"`
	Changed  bool     `json:"changed"`
}

func (s *Server) setHostname(ctx context.Context, _ *request, in *hostnameChange) (hostnameAnswer, error) {
	v, assigned, changed, err := s.Peers.SetHostname(ctx, in.ID, in.Body.Hostname)
	if err != nil {
		return hostnameAnswer{}, err
	}
	return hostnameAnswer{Peer: viewPeer(&v), Assigned: orNull(assigned), Changed: changed}, nil
}

type configQuery struct {
	ID       model.PeerID `path:"id"`
	Download string       `query:"download" doc:"1: as a file"`
	Format   string       `query:"format" doc:"json: as JSON"`
}

type configAnswer struct {
	OK     ok     `json:"ok"`
	Config string `json:"config"`
	Name   string `json:"name"`
}

// peerConfig is plain text unless JSON is asked for by name.
func (s *Server) peerConfig(ctx context.Context, r *request, in *configQuery) (responder, error) {
	name, text, err := s.Peers.Config(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case in.Download == "1":
		return file{"application/octet-stream", peers.ConfigFile(name), []byte(text)}, nil
	case in.Format == "json" || in.Format == "" && strings.Contains(r.Header.Get("Accept"), typeJSON):
		return jsonOf{http.StatusOK, configAnswer{Config: text, Name: name}}, nil
	}
	return file{"text/plain; charset=utf-8", "", []byte(text)}, nil
}

type qrAnswer struct {
	OK     ok     `json:"ok"`
	Name   string `json:"name"`
	QR     string `json:"qr" doc:"data:image/png;base64,…"`
	Config string `json:"config"`
}

func (s *Server) peerQR(ctx context.Context, _ *request, in *peerID) (qrAnswer, error) {
	name, text, png, err := s.Peers.QR(ctx, in.ID)
	if err != nil {
		return qrAnswer{}, err
	}
	return qrAnswer{Name: name, QR: "data:image/png;base64," + base64.StdEncoding.EncodeToString(png), Config: text}, nil
}
