package api

import (
	"context"

	"gatecontrol/control/peers"
	"gatecontrol/model"
)

// groupView is a group as the API shows one (contract-admin section 9), with the
// switches that are ours.
type groupView struct {
	ID          model.GroupID `json:"id"`
	Name        string        `json:"name"`
	Color       string        `json:"color"`
	Description *string       `json:"description"`
	CreatedAt   string        `json:"created_at"`
	PeerCount   *int          `json:"peer_count,omitempty" doc:"Only in the list"`
	Isolated    bool          `json:"isolated" doc:"Members neither reach other peers, each other included, nor are reached by them"`
	NoExit      bool          `json:"no_exit" doc:"Members do not reach the internet through this server"`
}

func viewGroup(g *model.Group) groupView {
	return groupView{
		ID: g.ID, Name: g.Name, Color: g.Color, Description: orNull(g.Description), CreatedAt: dt(g.CreatedAt),
		Isolated: g.Isolated, NoExit: g.NoExit,
	}
}

type groupsAnswer struct {
	OK     ok          `json:"ok"`
	Groups []groupView `json:"groups"`
}

func (s *Server) listGroups(ctx context.Context, _ *request, _ *none) (groupsAnswer, error) {
	list, err := s.Peers.Groups(ctx)
	if err != nil {
		return groupsAnswer{}, err
	}
	a := groupsAnswer{Groups: make([]groupView, len(list))}
	for i := range list {
		a.Groups[i] = viewGroup(&list[i].Group)
		a.Groups[i].PeerCount = &list[i].Members
	}
	return a, nil
}

type groupAnswer struct {
	OK    ok        `json:"ok"`
	Group groupView `json:"group"`
}

func answerGroup(g *model.Group, err error) (groupAnswer, error) {
	if err != nil {
		return groupAnswer{}, err
	}
	return groupAnswer{Group: viewGroup(g)}, nil
}

type newGroup struct {
	Body peers.GroupInput
}

func (s *Server) createGroup(ctx context.Context, _ *request, in *newGroup) (groupAnswer, error) {
	return answerGroup(s.Peers.CreateGroup(ctx, in.Body))
}

type groupChange struct {
	ID   model.GroupID `path:"id"`
	Body peers.GroupInput
}

func (s *Server) updateGroup(ctx context.Context, _ *request, in *groupChange) (groupAnswer, error) {
	return answerGroup(s.Peers.UpdateGroup(ctx, in.ID, in.Body))
}

type groupID struct {
	ID model.GroupID `path:"id"`
}

func (s *Server) deleteGroup(ctx context.Context, _ *request, in *groupID) (done, error) {
	return done{}, s.Peers.DeleteGroup(ctx, in.ID)
}
