package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"gatecontrol/model"
)

// statusOf maps kinds of failure to statuses. Nothing else does.
func statusOf(k model.Kind) int {
	switch k {
	case model.KindInvalid:
		return http.StatusBadRequest
	case model.KindNotFound:
		return http.StatusNotFound
	case model.KindConflict:
		return http.StatusConflict
	case model.KindUnauthenticated:
		return http.StatusUnauthorized
	case model.KindForbidden:
		return http.StatusForbidden
	case model.KindLimited:
		return http.StatusTooManyRequests
	case model.KindUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// httpError is a refusal that only HTTP knows.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

// failure is the answer to a request that failed.
type failure struct {
	OK       bool              `json:"ok"`
	Error    string            `json:"error" doc:"A sentence for people; programs use the status and code"`
	Fields   map[string]string `json:"fields,omitempty" doc:"What is wrong with each field"`
	Code     string            `json:"code,omitempty" doc:"A stable word, where there is one"`
	Conflict any               `json:"conflict,omitempty" doc:"What the request clashes with"`
}

// codePasswordChange is the code of errPasswordChange.
const codePasswordChange = "password_change_required"

// errPasswordChange is the answer to everything else while a new password is due.
func errPasswordChange() error {
	return &model.Error{
		Kind: model.KindForbidden, Code: codePasswordChange,
		Message: "change your password first: PUT /api/v1/settings/password, or open the page of this server",
	}
}

// failed turns an error into an answer. What is not meant for people goes to
// the log, and the answer does not hold it.
func (s *Server) failed(r *request, err error) *answer {
	if e, ok := errors.AsType[*httpError](err); ok {
		return jsonAnswer(e.status, failure{Error: e.message})
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return jsonAnswer(http.StatusServiceUnavailable, failure{Error: "the request was given up"})
	}
	e, ok := errors.AsType[*model.Error](err)
	if !ok || e.Kind == model.KindInternal {
		s.log.Error("a request failed", "request", model.RequestID(r.Context()), "operation", r.Pattern, "err", err)
		return jsonAnswer(http.StatusInternalServerError, failure{Error: "Internal server error"})
	}
	if e.Err != nil {
		s.log.Warn("a request was refused", "request", model.RequestID(r.Context()), "operation", r.Pattern, "err", err)
	}
	f := failure{Error: e.Message, Code: e.Code, Conflict: e.Detail}
	if len(e.Fields) > 0 {
		f.Fields = make(map[string]string, len(e.Fields))
		for _, field := range e.Fields {
			f.Fields[field.Field] = field.Message
		}
		f.Error = e.Fields[0].Message
	}
	a := jsonAnswer(statusOf(e.Kind), f)
	switch e.Kind {
	case model.KindUnavailable:
		a.header = http.Header{"Retry-After": {"5"}}
	case model.KindLimited:
		if r.header.Get("Retry-After") == "" {
			a.header = http.Header{"Retry-After": {strconv.Itoa(seconds(limitWindow))}} // at most
		}
	case model.KindUnauthenticated:
		a.header = http.Header{"Www-Authenticate": {`Bearer realm="GateControl"`}}
	}
	return a
}

// answer is a whole response. Nearly all of ours are small enough to be built
// before the first byte is sent, so that a status is never taken back.
type answer struct {
	status  int
	header  http.Header // may be nil
	typ     string      // Content-Type
	body    []byte
	content *io.SectionReader // instead of body: what is too large to be held for each who reads it slowly
}

// responder is an output that is not JSON.
type responder interface {
	respond(r *request) *answer
}

// jsonAnswer encodes v, which is one of our own types.
func jsonAnswer(status int, v any) *answer {
	b, err := json.Marshal(v)
	if err != nil {
		return &answer{status: http.StatusInternalServerError, typ: typeJSON, body: []byte(`{"ok":false,"error":"Internal server error"}`)}
	}
	return &answer{status: status, typ: typeJSON, body: b}
}

// ok is the member that every JSON answer of a success begins with.
type ok struct{}

func (ok) MarshalJSON() ([]byte, error) { return []byte("true"), nil }

// done is the answer of an operation that has nothing to tell.
type done struct {
	OK ok `json:"ok"`
}
