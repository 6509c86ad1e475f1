package routes

import (
	"encoding/json"
	"strings"

	"gatecontrol/model"
)

// absent lists what a request may ask of a route and this server does not do.
// Such a request is refused: a gate that is stored but not enforced would be an
// open door. A field that asks for nothing is let through, and so are parameters
// of a switch that is off, which need no line here.
var absent = []struct {
	field  string
	asks   func(json.RawMessage) bool
	unless func(members) bool      // when true, the field means nothing
	only   func(*model.Route) bool // nil: any
}{
	{field: "target_pool_id", asks: filled, unless: targetsPeer},
	{field: "wol_enabled", asks: on, only: throughGateway},
	{field: "l4_tls_mode", asks: otherThan(model.TLSNone), only: isL4},
}

// checkAbsent notes every member that asks r for what this server does not do.
func checkAbsent(m members, r *model.Route, bad *model.Invalids) {
	for _, a := range absent {
		raw, ok := m[a.field]
		if !ok || !a.asks(raw) || a.only != nil && !a.only(r) || a.unless != nil && a.unless(m) {
			continue
		}
		bad.Add(a.field, "this server does not offer it yet")
	}
}

func isL4(r *model.Route) bool { return r.Type == model.RouteL4 }

func throughGateway(r *model.Route) bool { return r.Target.Gateway != nil }

// targetsPeer reports whether m says so: then the target fields of gateways are
// leftovers of a form.
func targetsPeer(m members) bool {
	raw, ok := m["target_kind"]
	return ok && filled(raw) && !otherThan("peer")(raw)
}

// on reports whether raw is anything but an off switch.
func on(raw json.RawMessage) bool {
	var f model.Field[bool]
	return json.Unmarshal(raw, &f) != nil || f.Value
}

// otherThan reports whether raw is neither empty nor the text def.
func otherThan(def string) func(json.RawMessage) bool {
	return func(raw json.RawMessage) bool {
		var s string
		return json.Unmarshal(raw, &s) != nil || s != "" && s != def
	}
}

// filled reports whether raw holds anything: more than null, 0, false, "", or
// lists and objects of nothing. Columns that hold JSON come as its text, too.
func filled(raw json.RawMessage) bool {
	var v any
	return json.Unmarshal(raw, &v) != nil || holds(v)
}

func holds(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0
	case string:
		v = strings.TrimSpace(v)
		var inner any
		if v != "" && strings.ContainsRune("[{n0", rune(v[0])) && json.Unmarshal([]byte(v), &inner) == nil {
			return holds(inner)
		}
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		for _, m := range v {
			if holds(m) {
				return true
			}
		}
	}
	return false
}
