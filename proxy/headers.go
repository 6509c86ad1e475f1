package proxy

import (
	"fmt"

	"gatecontrol/model"
)

// maxSetFields bounds the fields that a route sets, per direction: they are looked
// through for every field of a message.
const maxSetFields = 64

// setFields are fields that a route sets on a message. nil sets none.
type setFields []setField

type setField struct {
	name string // in lower case
	line string // complete, with its CRLF
}

// newSetFields compiles what a route sets. Of fields with one name the last counts.
func newSetFields(field string, list []model.HeaderField, answer bool, sticky string) (setFields, error) {
	if len(list) > maxSetFields {
		return nil, model.Invalid(field, "more than %d", maxSetFields)
	}
	var set setFields
next:
	for i, f := range list {
		field := fmt.Sprintf("%s[%d]", field, i)
		value := string(trimSpace([]byte(f.Value)))
		kind := classify([]byte(f.Name))
		switch {
		case len(f.Name) > 256 || !isFieldName(f.Name):
			return nil, model.Invalid(field+".name", "letters, digits and - alone, at most 256")
		case len(f.Value) > 4096 || value == "" || !isClean([]byte(value)):
			return nil, model.Invalid(field+".value", "1 to 4096 characters without control characters")
		case !settable(kind, answer):
			return nil, model.Invalid(field+".name", "%s belongs to the connection or to the gateway", f.Name)
		case kind == hostField && !isAuthority(value):
			return nil, model.Invalid(field+".value", "not a host name")
		case kind == setCookieField && setsOwnCookie([]byte(value), sticky):
			return nil, model.Invalid(field+".value", "that cookie belongs to the gateway")
		}
		s := setField{lower(f.Name), f.Name + ": " + value + "\r\n"}
		for j := range set {
			if set[j].name == s.name {
				set[j] = s
				continue next
			}
		}
		set = append(set, s)
	}
	return set, nil
}

// settable tells the fields that mean something to people and programs from those
// that frame a message, end at this hop, or say who asks.
func settable(kind fieldKind, answer bool) bool {
	switch kind {
	case plainField, contentField, authField, cookieField, setCookieField:
		return true
	case hostField, dateField:
		return !answer
	case expectField: // of no meaning there
		return answer
	}
	return false
}

func isFieldName(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || isDigit(c) || c == '-') {
			return false
		}
	}
	return name != ""
}

func isAuthority(text string) bool {
	_, ok := model.NormalizeHost(text)
	return ok
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// has reports whether a field is replaced. "_" counts as "-", because many backends
// fold the two together, and would see what the client sent.
func (s setFields) has(name []byte) bool {
next:
	for i := range s {
		set := s[i].name
		if len(set) != len(name) {
			continue
		}
		for j, c := range name {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			} else if c == '_' {
				c = '-'
			}
			if c != set[j] {
				continue next
			}
		}
		return true
	}
	return false
}

func (s setFields) append(b []byte) []byte {
	for i := range s {
		b = append(b, s[i].line...)
	}
	return b
}

// host is the Host that is set, empty if none is.
func (s setFields) host() string {
	for i := range s {
		if s[i].name == "host" {
			return s[i].line[len("host: ") : len(s[i].line)-2]
		}
	}
	return ""
}
