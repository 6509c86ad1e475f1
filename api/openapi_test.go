package api

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestOpenAPI(t *testing.T) {
	f := newFixture(t)
	w := f.token(t, "client:dns").do("GET", "/api/v1/openapi.json", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/openapi+json" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	golden(t, "openapi", w.Body.String())

	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Security    []map[string][]string `json:"security"`
			Parameters  []struct{ Name, In string }
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("the version is %q", doc.OpenAPI)
	}
	ids := map[string]bool{}
	for _, o := range f.table {
		path := strings.ReplaceAll(o.path, "{$}", "")
		got, ok := doc.Paths[path][strings.ToLower(o.method)]
		if !ok {
			t.Errorf("%s %s is not described", o.method, o.path)
			continue
		}
		if ids[got.OperationID] || got.OperationID == "" {
			t.Errorf("%s %s has the id %q, which is not its own", o.method, o.path, got.OperationID)
		}
		ids[got.OperationID] = true
		if len(got.Responses) < 2 || (len(got.Security) == 0) != o.access.public {
			t.Errorf("%s %s: %d answers, %d ways to sign in", o.method, o.path, len(got.Responses), len(got.Security))
		}
		inPath := 0
		for _, p := range got.Parameters {
			if p.In == "path" {
				inPath++
			}
		}
		if want := strings.Count(path, "{"); inPath != want {
			t.Errorf("%s %s has %d parameters in its path, %d described", o.method, o.path, want, inPath)
		}
	}
	for _, ref := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllStringSubmatch(w.Body.String(), -1) {
		if doc.Components.Schemas[ref[1]] == nil {
			t.Errorf("the schema %s is missing", ref[1])
		}
	}
}

// A schema has no member of an embedded type whose name is not exported.
func TestSchemasHaveAllMembers(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || !strings.HasPrefix(typ.PkgPath(), "gatecontrol/") {
			return
		}
		seen[typ] = true
		for f := range typ.Fields() {
			if f.Anonymous && !f.IsExported() {
				t.Errorf("%s embeds %s", typ, f.Type)
			}
			if f.IsExported() {
				check(f.Type)
			}
		}
	}
	for _, o := range newFixture(t).table {
		if o.output != reflect.TypeFor[responder]() {
			check(o.output)
		}
	}
}
