package model

import (
	"encoding/json"
	"reflect"
	"strings"
)

// DecodeObject reads a JSON object into the struct that into points to, member
// by member, so that the error names every member that cannot be read and not
// only the first. Members are found by their json tag, spelled exactly, or by
// what an alias tag names; unknown ones are passed over. A member with a join
// tag is a text that may also come as a list of texts, which the tag's value
// then joins. The members of an embedded struct are members, too.
func DecodeObject(b []byte, into any) error {
	members, err := Members(b)
	if err != nil {
		return err
	}
	var bad Invalids
	decodeMembers(members, reflect.ValueOf(into).Elem(), &bad)
	return bad.Err()
}

func decodeMembers(members map[string]json.RawMessage, v reflect.Value, bad *Invalids) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			decodeMembers(members, v.Field(i), bad)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		raw, ok := members[name]
		if alias := f.Tag.Get("alias"); !ok && alias != "" {
			if raw, ok = members[alias]; ok {
				name = alias
			}
		}
		if !ok || name == "" || name == "-" || !f.IsExported() {
			continue
		}
		if sep := f.Tag.Get("join"); sep != "" {
			raw = joinTexts(raw, sep)
		}
		if err := json.Unmarshal(raw, v.Field(i).Addr().Interface()); err != nil {
			bad.AddBelow(name, err)
		}
	}
}

// Members splits a JSON object.
func Members(b []byte) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil || members == nil {
		return nil, Failure(KindInvalid, "the body must be a JSON object")
	}
	return members, nil
}

// joinTexts turns a JSON list of texts into one JSON text; anything else stays.
func joinTexts(raw json.RawMessage, sep string) json.RawMessage {
	var list []string
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return raw
	}
	joined, err := json.Marshal(strings.Join(list, sep))
	if err != nil {
		return raw
	}
	return joined
}
