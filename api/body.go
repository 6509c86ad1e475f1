package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"gatecontrol/model"
)

const (
	typeJSON = "application/json"
	typeForm = "application/x-www-form-urlencoded"
)

// Bounds of a request body.
const (
	maxBody    = 1 << 20
	maxNesting = 64
	maxMembers = 1000 // of a form
)

var (
	errMediaType = &httpError{http.StatusUnsupportedMediaType, "the body must be " + typeJSON + " or " + typeForm}
)

// body is what a request brought: the members of a JSON object or a form, as
// JSON.
type body struct {
	json    bool // it was a JSON object
	raw     []byte
	members map[string]json.RawMessage
}

// csrf returns the member _csrf and whether there is one.
func (b *body) csrf() (string, bool) {
	raw, ok := b.members["_csrf"]
	if !ok {
		return "", false
	}
	var text string
	_ = json.Unmarshal(raw, &text) // what is no text matches nothing
	return text, true
}

// tooLarge refuses a body beyond a limit of bytes.
func tooLarge(limit int64) error {
	return &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body must be at most %d MiB", limit>>20)}
}

// unread says why reading a body failed.
func unread(err error) error {
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(e.Limit)
	}
	return &httpError{http.StatusBadRequest, "the body could not be read"}
}

// readBody reads the body of r, whose size is bounded. An empty one needs no type.
func readBody(r *http.Request) (b body, err error) {
	b.raw, err = io.ReadAll(r.Body)
	if err != nil {
		return b, unread(err)
	}
	if len(b.raw) == 0 {
		return b, nil
	}
	typ, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return b, errMediaType
	}
	switch typ {
	case typeJSON:
		b.json = true
		depth, members := shape(b.raw)
		if depth > maxNesting {
			return b, model.Failure(model.KindInvalid, "the body is nested deeper than %d levels", maxNesting)
		}
		b.members, err = model.Members(b.raw)
		if err == nil && members > len(b.members) {
			err = model.Failure(model.KindInvalid, "the body has a member twice")
		}
	case typeForm:
		b.members, err = formMembers(b.raw)
		if err == nil {
			b.raw, err = json.Marshal(b.members)
		}
	default:
		err = errMediaType
	}
	return b, err
}

// formMembers reads a form as the object that a JSON body would have been. A
// name that comes twice, or ends in [], is a list.
func formMembers(raw []byte) (map[string]json.RawMessage, error) {
	bad := model.Failure(model.KindInvalid, "the body is not a form")
	if bytes.Count(raw, []byte("&")) >= maxMembers {
		return nil, bad
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, bad
	}
	members := make(map[string]json.RawMessage, len(values))
	for name, list := range values {
		var v any = list
		short, isList := strings.CutSuffix(name, "[]")
		if !isList && len(list) == 1 {
			v = list[0]
		}
		if members[short] != nil { // both name and name[]: which one counts would be chance
			return nil, bad
		}
		if members[short], err = json.Marshal(v); err != nil {
			return nil, bad
		}
	}
	return members, nil
}

// shape returns how deep the JSON text b nests objects and lists, and, if b is a
// valid object, how many members that has, those that come twice counted twice.
func shape(b []byte) (deepest, members int) {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		case c == ':' && depth == 1:
			members++
		}
	}
	return deepest, members
}
