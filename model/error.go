package model

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of failure an Error is. The api package maps each kind
// to one HTTP status; nothing else decides statuses.
type Kind uint8

// The kinds of failure that a caller can act on.
const (
	KindInternal        Kind = iota // a fault of ours; the message is not shown
	KindInvalid                     // the request breaks a rule; Fields names where
	KindNotFound                    // no such object, or none that the actor may see
	KindConflict                    // the request is fine but clashes with what exists
	KindUnauthenticated             // no or no valid credential
	KindForbidden                   // a valid credential that does not reach this far
	KindLimited                     // too many, too fast
	KindUnavailable                 // cannot be done at the moment: a full disk, a lost listener
)

var kindNames = [...]string{
	"internal", "invalid", "not found", "conflict",
	"unauthenticated", "forbidden", "limited", "unavailable",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Error is a failure that a person may read. Message never holds a secret or
// an internal detail; Err is the cause, for the log alone.
type Error struct {
	Kind    Kind
	Field   string       // the first field at fault, as the API spells it; may be empty
	Message string       // one sentence, safe to show
	Fields  []FieldError // every field at fault, first one included; may be empty
	Code    string       // stable machine-readable word, where the contract has one
	Detail  any          // what Code adds to the answer, for example a PortConflict
	Err     error
}

// FieldError is one field of a request and what is wrong with it.
type FieldError struct {
	Field   string
	Message string
}

func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Invalid reports one field that breaks a rule.
func Invalid(field, format string, args ...any) *Error {
	return fieldError(KindInvalid, field, format, args)
}

// Conflict reports a clash with what exists; field may be empty.
func Conflict(field, format string, args ...any) *Error {
	return fieldError(KindConflict, field, format, args)
}

// NotFound reports that there is no such object; what is its noun.
func NotFound(what string) *Error {
	return &Error{Kind: KindNotFound, Message: what + " not found"}
}

// Failure is an Error of the given kind without a field.
func Failure(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

func fieldError(kind Kind, field, format string, args []any) *Error {
	msg := fmt.Sprintf(format, args...)
	e := &Error{Kind: kind, Field: field, Message: msg}
	if field != "" {
		e.Fields = []FieldError{{field, msg}}
	}
	return e
}

// KindOf returns the kind of the first Error in err's chain, KindInternal if
// there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// Invalids collects the field errors of one request, so that an answer names
// all of them at once. The zero value is ready to use.
type Invalids struct{ fields []FieldError }

// Add records that field breaks a rule. Only the first error of a field counts.
func (v *Invalids) Add(field, format string, args ...any) {
	for _, f := range v.fields {
		if f.Field == field {
			return
		}
	}
	v.fields = append(v.fields, FieldError{field, fmt.Sprintf(format, args...)})
}

// AddError records err if it is an Error with fields, and reports whether it was.
func (v *Invalids) AddError(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != KindInvalid || len(e.Fields) == 0 {
		return false
	}
	for _, f := range e.Fields {
		v.Add(f.Field, "%s", f.Message)
	}
	return true
}

// AddBelow records err, which came from reading field: what it says of a member
// or an element is said of field.member or field[0].
func (v *Invalids) AddBelow(field string, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok || len(e.Fields) == 0 {
		v.Add(field, "%s", err)
		return
	}
	for _, f := range e.Fields {
		if strings.HasPrefix(f.Field, "[") {
			v.Add(field+f.Field, "%s", f.Message)
		} else {
			v.Add(field+"."+f.Field, "%s", f.Message)
		}
	}
}

// Err returns nil if nothing was added, else one Error that holds everything.
func (v *Invalids) Err() error {
	if len(v.fields) == 0 {
		return nil
	}
	first := v.fields[0]
	return &Error{Kind: KindInvalid, Field: first.Field, Message: first.Message, Fields: v.fields}
}
