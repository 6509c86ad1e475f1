package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"gatecontrol/control/accounts"
	"gatecontrol/model"
)

// textList is a list of texts, or one text with commas.
type textList []string

// UnmarshalJSON reads either.
func (l *textList) UnmarshalJSON(b []byte) error {
	var list []string
	if json.Unmarshal(b, &list) == nil {
		*l = list
		return nil
	}
	var text string
	if json.Unmarshal(b, &text) != nil {
		return errors.New("must be a list of texts")
	}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

type tokenView struct {
	ID                  model.TokenID `json:"id"`
	Name                string        `json:"name"`
	Scopes              []model.Scope `json:"scopes"`
	PeerID              *model.PeerID `json:"peer_id"`
	MachineFingerprint  *string       `json:"machine_fingerprint"`
	UserID              *model.UserID `json:"user_id"`
	MachineBinding      bool          `json:"machine_binding_enabled"`
	CreatedAt           string        `json:"created_at"`
	ExpiresAt           *string       `json:"expires_at"`
	LastUsedAt          *string       `json:"last_used_at"`
	SplitTunnelOverride *string       `json:"split_tunnel_override"`
}

func viewToken(t *model.Token) tokenView {
	v := tokenView{
		ID: t.ID, Name: t.Name, Scopes: t.Scopes, CreatedAt: dt(t.CreatedAt),
		ExpiresAt: isoOrNull(t.ExpiresAt), LastUsedAt: dtOrNull(t.LastUsedAt),
	}
	if t.Peer != 0 {
		v.PeerID = &t.Peer
	}
	if t.User != 0 {
		v.UserID = &t.User
	}
	return v
}

type tokensAnswer struct {
	OK     ok          `json:"ok"`
	Tokens []tokenView `json:"tokens"`
}

func (s *Server) listTokens(context.Context, *request, *none) (tokensAnswer, error) {
	list, err := s.Accounts.Tokens()
	if err != nil {
		return tokensAnswer{}, err
	}
	a := tokensAnswer{Tokens: make([]tokenView, len(list))}
	for i, t := range list {
		a.Tokens[i] = viewToken(t)
	}
	return a, nil
}

type tokenInput struct {
	Body struct {
		Name      model.Field[string] `json:"name"`
		Scopes    textList            `json:"scopes"`
		ExpiresAt model.Field[string] `json:"expires_at"`
	}
}

type tokenAnswer struct {
	OK      ok        `json:"ok"`
	Token   string    `json:"token" doc:"The value, which is told only here"`
	Details tokenView `json:"details"`
}

func (s *Server) createToken(ctx context.Context, _ *request, in *tokenInput) (tokenAnswer, error) {
	value, t, err := s.Accounts.CreateToken(ctx, accounts.TokenInput{
		Name: in.Body.Name.Value, Scopes: in.Body.Scopes, ExpiresAt: in.Body.ExpiresAt.Value,
	})
	if err != nil {
		return tokenAnswer{}, err
	}
	return tokenAnswer{Token: value.Reveal(), Details: viewToken(t)}, nil
}

type tokenID struct {
	ID model.TokenID `path:"id"`
}

func (s *Server) deleteToken(ctx context.Context, _ *request, in *tokenID) (done, error) {
	return done{}, s.Accounts.DeleteToken(ctx, in.ID)
}
