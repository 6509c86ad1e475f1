package api

import (
	"io"
	"mime"
	"mime/multipart"
	"net/http"

	"gatecontrol/model"
)

const typeMultipart = "multipart/form-data"

// Bounds of a file that is uploaded in a part of a multipart body.
const (
	maxUpload     = model.MaxPicture
	maxUploadBody = maxUpload + 64<<10 // with what is around it
	maxParts      = 20                 // a form of a browser has a few fields beside the file
	uploadLimit   = 15                 // of one address or token in 15 minutes
)

// anyPart is the name of a part that every operation takes, too.
const anyPart = "file"

var errUploadType = &httpError{http.StatusUnsupportedMediaType, "the body must be " + typeMultipart}

// uploaded is a file as it came. Its name is the client's: it is judged, and never
// becomes a path.
type uploaded struct {
	name    string
	typ     string // that it is declared as
	content []byte // at most maxUpload bytes
}

// readUpload reads the one file of the body of r, whose size is bounded. It is in
// the part of that name, or in anyPart; parts that are no files are passed over.
func readUpload(r *http.Request, part string) (file uploaded, err error) {
	if r.ContentLength == 0 {
		return file, noFile(part)
	}
	typ, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || typ != typeMultipart || params["boundary"] == "" {
		return file, errUploadType
	}
	body := multipart.NewReader(r.Body, params["boundary"])
	found := false
	for range maxParts {
		p, err := body.NextRawPart()
		switch {
		case err == io.EOF && found: // itself: a body that was cut wraps it
			return file, nil
		case err == io.EOF:
			return file, noFile(part)
		case err != nil:
			return file, unread(err)
		case p.FileName() == "":
			continue // what is left of it is passed over by the next call
		case p.FormName() != part && p.FormName() != anyPart:
			return file, model.Invalid(part, "must be in a part called %s or %s", part, anyPart)
		case found:
			return file, model.Invalid(part, "must be one file")
		}
		found = true
		file = uploaded{name: p.FileName(), typ: p.Header.Get("Content-Type")}
		if file.content, err = io.ReadAll(io.LimitReader(p, maxUpload+1)); err != nil {
			return file, unread(err)
		}
		if len(file.content) > maxUpload {
			return file, &httpError{http.StatusRequestEntityTooLarge, "the file must be at most 2 MiB"}
		}
	}
	return file, model.Invalid(part, "must be in a body of at most %d parts", maxParts)
}

func noFile(part string) error { return model.Invalid(part, "there is no file") }
