package api

import (
	"context"
	"io"
	"net/http"

	"gatecontrol/control/routes"
	"gatecontrol/model"
)

type logoUpload struct {
	ID   model.RouteID `path:"id"`
	File uploaded      `part:"logo"`
}

type backgroundUpload struct {
	ID   model.RouteID `path:"id"`
	File uploaded      `part:"bg_image"`
}

type pictureAnswer struct {
	OK       ok     `json:"ok"`
	Filename string `json:"filename" doc:"Below /branding/, and in the member of the route"`
}

func (s *Server) setLogo(ctx context.Context, _ *request, in *logoUpload) (pictureAnswer, error) {
	return s.setPicture(ctx, in.ID, routes.Logo, "logo", in.File)
}

func (s *Server) setBackground(ctx context.Context, _ *request, in *backgroundUpload) (pictureAnswer, error) {
	return s.setPicture(ctx, in.ID, routes.BackgroundImage, "bg_image", in.File)
}

func (s *Server) setPicture(ctx context.Context, id model.RouteID, p routes.Place, field string, f uploaded) (pictureAnswer, error) {
	img, err := model.ParsePicture(field, f.name, f.typ, f.content)
	if err != nil {
		return pictureAnswer{}, err
	}
	name, err := s.Routes.SetPicture(ctx, id, p, img)
	return pictureAnswer{Filename: name}, err
}

func (s *Server) deleteLogo(ctx context.Context, _ *request, in *routeID) (done, error) {
	return done{}, s.Routes.DeletePicture(ctx, in.ID, routes.Logo)
}

func (s *Server) deleteBackground(ctx context.Context, _ *request, in *routeID) (done, error) {
	return done{}, s.Routes.DeletePicture(ctx, in.ID, routes.BackgroundImage)
}

type pictureName struct {
	File string `path:"file"`
}

func (s *Server) picture(_ context.Context, _ *request, in *pictureName) (responder, error) {
	content, typ, err := s.Routes.OpenPicture(in.File)
	if err != nil {
		return nil, err
	}
	return picture{content, typ}, nil
}

// picture is taken for one by whoever gets it, whatever else is in it, and nothing
// in it runs. Its name never stands for another one, so it may be kept.
type picture struct {
	content *io.SectionReader
	typ     string
}

func (p picture) respond(*request) *answer {
	return &answer{
		status: http.StatusOK, typ: p.typ, content: p.content,
		header: http.Header{
			"Content-Security-Policy": {"default-src 'none'; img-src 'self'"},
			"Cache-Control":           {"public, max-age=86400"},
		},
	}
}
