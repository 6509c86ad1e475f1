package model

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pair is an element as the API has them.
type pair struct {
	Type  Field[string] `json:"type"`
	Value Field[int64]  `json:"value"`
}

func (p *pair) UnmarshalJSON(b []byte) error { return DecodeObject(b, p) }

type columns struct {
	Pairs   Column[List[pair]] `json:"pairs"`
	Numbers Column[Numbers]    `json:"numbers"`
	Inner   Column[inner]      `json:"inner"`
}

type inner struct {
	Pairs List[pair]    `json:"pairs"`
	Name  Field[string] `json:"name"`
}

func (i *inner) UnmarshalJSON(b []byte) error { return DecodeObject(b, i) }

func TestColumn(t *testing.T) {
	one := List[pair]{{Value("a"), Value(int64(1))}}
	for _, c := range []struct {
		body  string
		want  columns
		field string
	}{
		{body: `{}`},
		{body: `{"pairs":null}`, want: columns{Pairs: Column[List[pair]]{Set: true, Null: true}}},
		{body: `{"pairs":"null"}`, want: columns{Pairs: Column[List[pair]]{Set: true, Null: true}}},
		{body: `{"pairs":" "}`, want: columns{Pairs: Column[List[pair]]{Set: true, Null: true}}},
		{body: `{"pairs":[]}`, want: columns{Pairs: Column[List[pair]]{Set: true, Value: List[pair]{}}}},
		{body: `{"pairs":[{"type":"a","value":"1","other":{}}]}`, want: columns{Pairs: Column[List[pair]]{Set: true, Value: one}}},
		{body: `{"pairs":" [{\"type\":\"a\",\"value\":1}] "}`, want: columns{Pairs: Column[List[pair]]{Set: true, Value: one}}},
		{body: `{"numbers":[1,"2"]}`, want: columns{Numbers: Column[Numbers]{Set: true, Value: Numbers{1, 2}}}},
		{body: `{"inner":"{\"pairs\":[{\"type\":\"a\",\"value\":1}]}"}`, want: columns{Inner: Column[inner]{Set: true, Value: inner{Pairs: one}}}},

		{body: `{"pairs":"x"}`, field: "pairs"}, {body: `{"pairs":{}}`, field: "pairs"}, {body: `{"pairs":7}`, field: "pairs"}, {body: `{"pairs":"\"[]\""}`, field: "pairs"},
		{body: `{"pairs":[{},[]]}`, field: "pairs[1]"}, {body: `{"pairs":"[{\"value\":{}}]"}`, field: "pairs[0]"}, {body: `{"pairs":[null]}`, field: "pairs[0]"},
		{body: `{"numbers":["x"]}`, field: "numbers"}, {body: `{"inner":[]}`, field: "inner"}, {body: `{"inner":{"name":{}}}`, field: "inner.name"},
		{body: `{"inner":{"pairs":[{},{"value":[]}]}}`, field: "inner.pairs[1]"},
	} {
		var got columns
		err := DecodeObject([]byte(c.body), &got)
		if c.field != "" {
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Kind != KindInvalid || e.Field != c.field {
				t.Errorf("%s: %v, want %s", c.body, err, c.field)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c.body, err, diff)
		}
	}
}

// FuzzColumn wants JSON and its text to be read alike.
func FuzzColumn(f *testing.F) {
	for _, s := range []string{`null`, `[]`, `[{"type":"a","value":1}]`, `[[[[`, `{"pairs":[{}]}`, `[1,"2",3.5e300]`, `"[]"`, `[null]`, `0`, `{"name":"\u0000"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !json.Valid(raw) {
			return
		}
		var inside any
		if json.Unmarshal(raw, &inside) != nil {
			return
		}
		if _, isText := inside.(string); isText {
			return
		}
		text, err := json.Marshal(string(raw))
		if err != nil {
			t.Fatal(err)
		}
		alike(t, new(Column[List[pair]]), new(Column[List[pair]]), raw, text)
		alike(t, new(Column[Numbers]), new(Column[Numbers]), raw, text)
		alike(t, new(Column[inner]), new(Column[inner]), raw, text)
	})
}

func alike(t *testing.T, a, b any, raw, text []byte) {
	t.Helper()
	errA, errB := json.Unmarshal(raw, a), json.Unmarshal(text, b)
	if (errA == nil) != (errB == nil) {
		t.Fatalf("%s: %v, and as text %v", raw, errA, errB)
	}
	if diff := cmp.Diff(a, b); errA == nil && diff != "" {
		t.Error(diff)
	}
}
