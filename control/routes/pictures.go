package routes

import (
	"context"
	"errors"
	"io"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// maxPictures bounds the bytes of all pictures of all routes. They are in the file
// that is read from end to end at each start, and copied before each upgrade.
const maxPictures = 32 << 20

// Place is where on a sign-in page a picture is.
type Place uint8

// The places of a sign-in page.
const (
	Logo            Place = iota
	BackgroundImage       // over the background colour
)

func (p Place) String() string {
	if p == Logo {
		return "logo"
	}
	return "background image"
}

// of returns where b has the name of p.
func (p Place) of(b *model.Branding) *string {
	if p == Logo {
		return &b.Logo
	}
	return &b.Image
}

// SetPicture gives a route a picture in place of the one that it had, and returns
// the name under which OpenPicture finds it. Kinds: KindNotFound; KindInvalid for
// a route that has no sign-in page; KindConflict for one picture too many.
func (s *Service) SetPicture(ctx context.Context, id model.RouteID, p Place, img model.Picture) (name string, err error) {
	name = img.NewName()
	return name, s.changePicture(ctx, id, p, func(tx *store.Tx, r *model.Route) (string, error) {
		if r.Type != model.RouteHTTP {
			return "", model.Failure(model.KindInvalid, "only a web route has a sign-in page")
		}
		if err := store.Pictures.Put(tx, name, img.Content); err != nil {
			return "", err
		}
		return name, nil
	})
}

// DeletePicture takes a picture from a route. That it has none is no error.
func (s *Service) DeletePicture(ctx context.Context, id model.RouteID, p Place) error {
	return s.changePicture(ctx, id, p, func(*store.Tx, *model.Route) (string, error) { return "", nil })
}

// changePicture has a route name p as choose says, and forgets the one before.
func (s *Service) changePicture(ctx context.Context, id model.RouteID, p Place, choose func(*store.Tx, *model.Route) (string, error)) error {
	_, err := s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Route, error) {
		r, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		name, err := choose(tx, r)
		if err != nil {
			return nil, err
		}
		w := r.Options()
		was := w.Branding
		if *p.of(&was) == name {
			return r, nil // there was none
		}
		*p.of(&w.Branding) = name
		setOptions(r, w)
		r.UpdatedAt = now
		if err := dropPictures(tx, &was, r); err != nil {
			return nil, err
		}
		if name != "" && store.Pictures.Size(tx) > maxPictures {
			return nil, model.Conflict("", "all pictures together must be at most %d MiB; delete some, or take smaller ones", maxPictures>>20)
		}
		if err := store.Routes.Put(tx, r); err != nil {
			return nil, err
		}
		done := "changed"
		if name == "" {
			done = "deleted"
		}
		return r, events.Append(ctx, tx, now, events.Entry{
			Type: "route_updated", Message: "the " + p.String() + " of " + title(r) + " was " + done, Details: details(r),
		})
	})
	return err
}

// dropPictures deletes the pictures that a route had and r, which it is now, does
// not name any more; a route that is deleted names none.
func dropPictures(tx *store.Tx, was *model.Branding, r *model.Route) error {
	is := r.Options().Branding
	for _, p := range [...]Place{Logo, BackgroundImage} {
		if name := *p.of(was); name != "" && name != *p.of(&is) {
			if err := store.Pictures.Delete(tx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// OpenPicture returns the picture of a name, and its media type, or KindNotFound.
// It is read from the store bit by bit as it is asked for, since strangers decide
// how many are sent at a time, and how slowly; one that is deleted meanwhile ends
// early.
func (s *Service) OpenPicture(name string) (content *io.SectionReader, mime string, err error) {
	mime, ok := model.PictureType(name)
	if !ok {
		return nil, "", model.NotFound("picture")
	}
	p := &picture{s.o.DB, name}
	_, size, err := p.read(nil, 0)
	if err != nil {
		return nil, "", err
	}
	if size < 0 {
		return nil, "", model.NotFound("picture")
	}
	return io.NewSectionReader(p, 0, size), mime, nil
}

// picture reads one from the store.
type picture struct {
	db   *store.DB
	name string
}

func (p *picture) read(into []byte, offset int64) (n int, size int64, err error) {
	err = p.db.View(func(tx *store.Tx) error {
		n, size = store.Pictures.ReadAt(tx, p.name, into, offset)
		return nil
	})
	return n, size, err
}

var errPictureGone = errors.New("the picture was deleted")

// ReadAt is that of io.ReaderAt.
func (p *picture) ReadAt(into []byte, offset int64) (int, error) {
	n, size, err := p.read(into, offset)
	switch {
	case err != nil:
		return n, err
	case size < 0:
		return n, errPictureGone
	case n < len(into):
		return n, io.EOF
	}
	return n, nil
}

var _ io.ReaderAt = (*picture)(nil)
