package api

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"gatecontrol/control/accounts"
)

// operation is one row of the table.
type operation struct {
	method, path string // path is a pattern of http.ServeMux
	summary      string
	access       access
	limiter      *limiter                            // nil: none
	status       int                                 // of a success
	offered      func(context.Context) (bool, error) // nil: always; else 404 to everybody
	input        reflect.Type
	part         string // of the body, that is a file; empty: the body is an object
	output       reflect.Type
	call         func(context.Context, *request) (any, error)
}

// op makes a row. In holds what a request brings: members with the tags path and
// query, and Body. Out is what is answered: a struct becomes JSON, a responder
// decides for itself.
func op[In, Out any](method, path, summary string, a access, limit *limiter,
	handle func(context.Context, *request, *In) (Out, error)) *operation {
	decode := newDecoder(reflect.TypeFor[In]())
	_, part := fileOf(reflect.TypeFor[In]())
	return &operation{
		method: method, path: path, summary: summary, access: a, limiter: limit, status: http.StatusOK,
		input: reflect.TypeFor[In](), part: part, output: reflect.TypeFor[Out](),
		call: func(ctx context.Context, r *request) (any, error) {
			in := new(In)
			if err := decode(r, reflect.ValueOf(in).Elem()); err != nil {
				return nil, err
			}
			return handle(ctx, r, in)
		},
	}
}

// creates marks an operation whose success is 201.
func (o *operation) creates() *operation {
	o.status = http.StatusCreated
	return o
}

// where has an operation be there only where on says so.
func (o *operation) where(on func(context.Context) (bool, error)) *operation {
	o.offered = on
	return o
}

// bodyLimit is how large a body may be, in bytes.
func (o *operation) bodyLimit() int64 {
	if o != nil && o.part != "" {
		return maxUploadBody
	}
	return maxBody
}

// check refuses a row that would be open by accident.
func (o *operation) check() error {
	if !o.access.decided() {
		return fmt.Errorf("api: %s %s has no rule of access", o.method, o.path)
	}
	return nil
}

// isPage tells what people open in a browser from what programs call.
func (o *operation) isPage() bool { return !isAPI(o.path) }

func isAPI(path string) bool {
	return path == "/api" || strings.HasPrefix(path, "/api/") || path == metricsPath
}

func safeMethod(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// request is one HTTP request and what was found out about it, once.
type request struct {
	*http.Request
	peer    client
	session *accounts.SignedIn   // at most one of session and token
	token   *accounts.Credential // is set
	body    body
	header  http.Header // of the answer
}

// none is the input of an operation that takes nothing.
type none struct{}
