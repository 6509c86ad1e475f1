package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"gatecontrol/model"
)

// Lenient request types, as a reader of the document needs to know them.
type (
	anyText   string
	anyFlag   bool
	anyNumber int64
	anyObject struct{}
)

func (anyText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Nullable: true}
}

func (anyFlag) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeBoolean, Nullable: true, Description: "Also 0, 1 and their texts"}
}

func (anyNumber) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Nullable: true, Description: "Also as text"}
}

func (anyObject) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Nullable: true}
}

// Schema says that a flag is 0 or 1.
func (int01) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Enum: []any{0, 1}}
}

// Schema says that a success says so.
func (ok) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeBoolean, Enum: []any{true}}
}

// The names of the ways to sign in.
const (
	bySession = "session"
	byToken   = "token"
)

// openAPI describes the table. Huma gives the types of the document and turns Go
// types into schemas; it does not serve: its answers to bad input and its
// process-wide error hook are not those of the contract.
func (s *Server) openAPI() ([]byte, error) {
	reg := huma.NewMapRegistry("#/components/schemas/", schemaName)
	reg.RegisterTypeAlias(reflect.TypeFor[model.Field[string]](), reflect.TypeFor[anyText]())
	reg.RegisterTypeAlias(reflect.TypeFor[model.Field[bool]](), reflect.TypeFor[anyFlag]())
	reg.RegisterTypeAlias(reflect.TypeFor[model.Field[int64]](), reflect.TypeFor[anyNumber]())
	reg.RegisterTypeAlias(reflect.TypeFor[model.Field[[]int64]](), reflect.TypeFor[[]int64]())
	aliasColumns(reg)
	reg.RegisterTypeAlias(reflect.TypeFor[json.RawMessage](), reflect.TypeFor[anyObject]())
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "GateControl", Version: s.Version,
			Description: "Every path under /api/v1 is served under /api as well. Bodies may be JSON or forms; unknown members are ignored. " +
				"A change made with the session cookie needs its token in X-CSRF-Token or _csrf.",
		},
		Servers: []*huma.Server{{URL: s.BaseURL.String()}},
		Components: &huma.Components{
			Schemas: reg,
			SecuritySchemes: map[string]*huma.SecurityScheme{
				bySession: {Type: "apiKey", In: "cookie", Name: sessionCookie},
				byToken:   {Type: "http", Scheme: "bearer"},
			},
		},
	}
	failed := reg.Schema(reflect.TypeFor[failure](), true, "")
	for _, o := range s.table {
		doc.AddOperation(s.describe(o, reg, failed))
	}
	for _, schema := range reg.Map() {
		schema.AdditionalProperties = nil // members may come; none is promised to stay out
	}
	return json.Marshal(doc)
}

func (s *Server) describe(o *operation, reg huma.Registry, failed *huma.Schema) *huma.Operation {
	d := &huma.Operation{
		Method: o.method, Path: strings.ReplaceAll(o.path, "{$}", ""), Summary: o.summary, OperationID: operationID(o),
		Tags: []string{tag(o)}, Responses: map[string]*huma.Response{}, Description: audience(o),
	}
	if o.access.login {
		d.Security = append(d.Security, map[string][]string{bySession: {}})
	}
	if o.access.tokens {
		d.Security = append(d.Security, map[string][]string{byToken: {}})
	}
	params, body := inputOf(o.input)
	for i := range params {
		d.Parameters = append(d.Parameters, describeParam(&params[i]))
	}
	if body >= 0 {
		schema := inputSchema(reg, o.input.Field(body).Type, o.input.Name())
		d.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{typeJSON: {Schema: schema}, typeForm: {Schema: schema}}}
	}
	if o.part != "" {
		d.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{typeMultipart: {Schema: uploadSchema(o.part)}}}
	}
	success := &huma.Response{Description: "Success"}
	if o.output != reflect.TypeFor[responder]() {
		success.Content = map[string]*huma.MediaType{typeJSON: {Schema: reg.Schema(o.output, true, "")}}
	}
	d.Responses[strconv.Itoa(o.status)] = success
	d.Responses["default"] = &huma.Response{
		Description: "Failure", Content: map[string]*huma.MediaType{typeJSON: {Schema: failed}},
	}
	return d
}

func describeParam(p *param) *huma.Param {
	schema := &huma.Schema{Type: huma.TypeString}
	if p.kind != reflect.String {
		low := float64(p.min)
		schema = &huma.Schema{Type: huma.TypeInteger, Minimum: &low}
		if p.in == "path" {
			low = 1
		} else {
			schema.Default = p.def
		}
	}
	return &huma.Param{Name: p.name, In: p.in, Required: p.in == "path", Description: p.doc, Schema: schema}
}

// inputSchema is the schema of a body, none of whose members has to be there
// for it to be read. A type without a name gets that of the input.
func inputSchema(reg huma.Registry, t reflect.Type, name string) *huma.Schema {
	schema := reg.Schema(t, true, name)
	full := schema
	if schema.Ref != "" {
		full = reg.SchemaFromRef(schema.Ref)
	}
	full.Required = nil
	return schema
}

// uploadSchema is the schema of a body with a file.
func uploadSchema(part string) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeObject, Required: []string{part},
		Properties: map[string]*huma.Schema{part: {
			Type: huma.TypeString, Format: "binary",
			Description: fmt.Sprintf("A PNG, JPEG, WebP or GIF, which its name and its Content-Type say as well; at most 2 MiB. The part may be called %s, too", anyPart),
		}},
	}
}

// schemaName names a type of another package after both, so that peers.Input
// and routes.Input do not meet.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if pkg := path.Base(t.PkgPath()); pkg != "api" && pkg != "." && t.Name() != "" {
		return title(pkg) + title(t.Name())
	}
	return huma.DefaultSchemaNamer(t, hint)
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

var notWord = regexp.MustCompile(`[^a-zA-Z0-9]+`)

// operationID is stable as long as method and path are.
func operationID(o *operation) string {
	name := strings.TrimPrefix(o.path, "/api/v1")
	return strings.ToLower(o.method) + "-" + strings.Trim(notWord.ReplaceAllString(name, "-"), "-")
}

func tag(o *operation) string {
	rest, isV1 := strings.CutPrefix(o.path, "/api/v1/")
	if !isV1 {
		return "pages"
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

// audience says in words who may call an operation.
func audience(o *operation) string {
	a := o.access
	switch {
	case a.public:
		return "Open to everybody."
	case !a.tokens:
		return "For people who are signed in."
	case a.every:
		return "For people who are signed in and for every token."
	}
	scopes := []string{string(model.ScopeFull)}
	for _, s := range a.scopes {
		scopes = append(scopes, string(s))
	}
	if o.method == http.MethodGet && !a.secrets {
		scopes = append(scopes, string(model.ScopeReadOnly))
	}
	return fmt.Sprintf("For people who are signed in and for tokens with one of the scopes %s.", strings.Join(scopes, ", "))
}
