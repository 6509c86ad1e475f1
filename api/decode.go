package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"

	"gatecontrol/model"
)

// param is a member of an input that comes from the path or the query.
type param struct {
	index    int
	in, name string // in is "path" or "query"
	doc      string
	kind     reflect.Kind // Int: a number between min and max; String
	def      int
	min, max int
}

// newDecoder returns what fills an input of type t. A tag that makes no sense
// panics, at start.
//
//	ID    model.PeerID `path:"id"`                                a positive number, or 404
//	Limit int          `query:"limit" default:"250" min:"1" max:"250"`   out of range is clamped, unreadable is the default
//	Since string       `query:"since"`
//	Body  peers.Input                                             the members of the request body
//	File  uploaded     `part:"logo"`                              a file, see readUpload; instead of Body
func newDecoder(t reflect.Type) func(*request, reflect.Value) error {
	params, bodyIndex := inputOf(t)
	fileIndex, part := fileOf(t)
	return func(r *request, v reflect.Value) error {
		var query url.Values
		for i := range params {
			p := &params[i]
			if p.in == "path" {
				if err := p.setPath(v.Field(p.index), r.PathValue(p.name)); err != nil {
					return err
				}
				continue
			}
			if query == nil {
				query = r.URL.Query()
			}
			if err := p.setQuery(v.Field(p.index), query[p.name]); err != nil {
				return err
			}
		}
		if part != "" {
			f, err := readUpload(r.Request, part)
			v.Field(fileIndex).Set(reflect.ValueOf(f))
			return err
		}
		if bodyIndex < 0 || len(r.body.raw) == 0 {
			return nil
		}
		into := v.Field(bodyIndex).Addr().Interface()
		if u, ok := into.(json.Unmarshaler); ok {
			return u.UnmarshalJSON(r.body.raw)
		}
		return model.DecodeObject(r.body.raw, into)
	}
}

// inputOf reads the tags of an input type; bodyIndex is -1 without a body.
func inputOf(t reflect.Type) (params []param, bodyIndex int) {
	bodyIndex = -1
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "Body" {
			bodyIndex = i
			continue
		}
		if f.Type == reflect.TypeFor[uploaded]() {
			continue
		}
		p := param{index: i, in: "query", doc: f.Tag.Get("doc"), kind: f.Type.Kind(), min: 0, max: 1 << 30}
		if p.name = f.Tag.Get("path"); p.name != "" {
			p.in = "path"
		} else if p.name = f.Tag.Get("query"); p.name == "" {
			panic(fmt.Sprintf("api: %s.%s comes from nowhere", t, f.Name))
		}
		for _, bound := range []struct {
			tag string
			n   *int
		}{{"default", &p.def}, {"min", &p.min}, {"max", &p.max}} {
			if text, ok := f.Tag.Lookup(bound.tag); ok {
				n, err := strconv.Atoi(text)
				if err != nil {
					panic(fmt.Sprintf("api: %s.%s: %v", t, f.Name, err))
				}
				*bound.n = n
			}
		}
		params = append(params, p)
	}
	return params, bodyIndex
}

// fileOf finds the member of an input that is a file, and the name of its part;
// that is empty without one.
func fileOf(t reflect.Type) (index int, part string) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Type == reflect.TypeFor[uploaded]() {
			if part = f.Tag.Get("part"); part == "" {
				panic(fmt.Sprintf("api: %s.%s comes from nowhere", t, f.Name))
			}
			return i, part
		}
	}
	return -1, ""
}

// setPath reads an identifier. What is none names nothing.
func (p *param) setPath(v reflect.Value, text string) error {
	if p.kind == reflect.String {
		v.SetString(text)
		return nil
	}
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return model.NotFound("object")
	}
	v.SetInt(int64(id))
	return nil
}

// setQuery reads a parameter, which must not come twice with different values.
func (p *param) setQuery(v reflect.Value, values []string) error {
	if len(slices.Compact(slices.Clone(values))) > 1 {
		return model.Invalid(p.name, "must be given once")
	}
	text := ""
	if len(values) > 0 {
		text = values[0]
	}
	if p.kind == reflect.String {
		v.SetString(text)
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		n = p.def
	}
	v.SetInt(int64(min(max(n, p.min), p.max)))
	return nil
}
