package api

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"gatecontrol/control/routes"
	"gatecontrol/model"
)

// columnOf is a member that holds JSON, or the text of it, as the document tells
// of it.
type columnOf[T any] struct{}

func (columnOf[T]) Schema(reg huma.Registry) *huma.Schema {
	return &huma.Schema{
		OneOf: []*huma.Schema{
			optionalMembers(reg, reg.Schema(reflect.TypeFor[T](), true, "")),
			{Type: huma.TypeString, Description: "The JSON text of it"},
			{Type: "null"},
		},
	}
}

// optionalMembers has nothing in a schema, or in that of its elements, be there
// for it to be read.
func optionalMembers(reg huma.Registry, schema *huma.Schema) *huma.Schema {
	full := schema
	if full.Items != nil {
		full = full.Items
	}
	if full.Ref != "" {
		full = reg.SchemaFromRef(full.Ref)
	}
	full.Required = nil
	return schema
}

// aliasColumns tells what the columns of a route hold.
func aliasColumns(reg huma.Registry) {
	aliasColumn[model.Numbers, []int64](reg)
	aliasColumn[model.List[routes.IPRuleInput], []routes.IPRuleInput](reg)
	aliasColumn[model.List[routes.BackendInput], []routes.BackendInput](reg)
	aliasColumn[model.List[routes.MirrorInput], []routes.MirrorInput](reg)
	aliasColumn[model.List[routes.PathInput], []routes.PathInput](reg)
	aliasColumn[routes.HeadersInput, routes.HeadersInput](reg)
	aliasColumn[routes.BotConfig, routes.BotConfig](reg)
	reg.RegisterTypeAlias(reflect.TypeFor[model.List[routes.HeaderInput]](), reflect.TypeFor[[]routes.HeaderInput]())
	reg.RegisterTypeAlias(reflect.TypeFor[routes.Statuses](), reflect.TypeFor[statuses]())
}

func aliasColumn[T, Shown any](reg huma.Registry) {
	reg.RegisterTypeAlias(reflect.TypeFor[model.Column[T]](), reflect.TypeFor[columnOf[Shown]]())
}

// statuses are a text with commas or a list.
type statuses struct{}

func (statuses) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		{Type: huma.TypeString, Description: "With commas, 502,503,504 say"},
		{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeInteger}},
		{Type: "null"},
	}}
}
