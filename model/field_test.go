package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestField(t *testing.T) {
	show := func(set, null bool, v any, err error) string {
		switch {
		case err != nil:
			return "refused"
		case null:
			return "null"
		}
		return fmt.Sprintf("%v", v)
	}
	for _, c := range []struct{ in, text, flag, number, list string }{
		{`null`, "null", "null", "null", "null"},
		{`"a"`, "a", "refused", "refused", "refused"},
		{`""`, "", "false", "null", "refused"},
		{`"  "`, "  ", "refused", "null", "refused"},
		{`"1"`, "1", "true", "1", "refused"},
		{`" 7 "`, " 7 ", "refused", "7", "refused"},
		{`1`, "1", "true", "1", "refused"},
		{`0`, "0", "false", "0", "refused"},
		{`true`, "refused", "true", "refused", "refused"},
		{`"true"`, "true", "true", "refused", "refused"},
		{`"false"`, "false", "false", "refused", "refused"},
		{`"on"`, "on", "true", "refused", "refused"},
		{`"off"`, "off", "false", "refused", "refused"},
		{`"yes"`, "yes", "refused", "refused", "refused"},
		{`2`, "2", "refused", "2", "refused"},
		{`-1`, "-1", "refused", "-1", "refused"},
		{`1.0`, "1.0", "refused", "1", "refused"},
		{`1.5`, "1.5", "refused", "refused", "refused"},
		{`1e3`, "1e3", "refused", "1000", "refused"},
		{`1e400`, "1e400", "refused", "refused", "refused"},
		{`9223372036854775807`, "9223372036854775807", "refused", "9223372036854775807", "refused"},
		{`9223372036854775808`, "9223372036854775808", "refused", "refused", "refused"},
		{`"NaN"`, "NaN", "refused", "refused", "refused"},
		{`"Inf"`, "Inf", "refused", "refused", "refused"},
		{`"0x10"`, "0x10", "refused", "refused", "refused"},
		{`[]`, "refused", "refused", "refused", "[]"},
		{`[1,"2",3.0]`, "refused", "refused", "refused", "[1 2 3]"},
		{`[1,"x"]`, "refused", "refused", "refused", "refused"},
		{`[null]`, "refused", "refused", "refused", "refused"},
		{`{}`, "refused", "refused", "refused", "refused"},
	} {
		var s Field[string]
		var b Field[bool]
		var n Field[int64]
		var l Field[[]int64]
		es, eb := json.Unmarshal([]byte(c.in), &s), json.Unmarshal([]byte(c.in), &b)
		en, el := json.Unmarshal([]byte(c.in), &n), json.Unmarshal([]byte(c.in), &l)
		for what, got := range map[string][2]string{
			"text": {show(s.Set, s.Null, s.Value, es), c.text}, "flag": {show(b.Set, b.Null, b.Value, eb), c.flag},
			"number": {show(n.Set, n.Null, n.Value, en), c.number}, "list": {show(l.Set, l.Null, l.Value, el), c.list},
		} {
			if got[0] != got[1] {
				t.Errorf("%s as %s is %s, want %s", c.in, what, got[0], got[1])
			}
		}
		if !s.Set || !b.Set || !n.Set || !l.Set {
			t.Errorf("%s is taken for absent", c.in)
		}
	}
}

func TestFieldUse(t *testing.T) {
	var absent Field[int64]
	if absent.Set || absent.Or(7) != 7 || (Field[int64]{Set: true, Null: true}).Or(7) != 7 || Value[int64](3).Or(7) != 3 {
		t.Error("Or")
	}
	for want, f := range map[string]any{"null": absent, "3": Value[int64](3), `"a"`: Value("a"), "true": Value(true), "[1]": Value([]int64{1})} {
		if got, err := json.Marshal(f); err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

type object struct {
	Name  Field[string]  `json:"name,omitempty"`
	Port  Field[int64]   `json:"port" alias:"listen_port"`
	Tags  Field[string]  `json:"tags" join:", "`
	IDs   Field[[]int64] `json:"ids"`
	Plain string         `json:"plain"`
	Not   string         `json:"-"`
	inner string
}

func TestDecodeObject(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{}`, "name=-,port=-,tags=-,plain="},
		{`{"name":"a","port":1,"tags":"x","plain":"p"}`, "name=a,port=1,tags=x,plain=p"},
		{`{"listen_port":"2"}`, "name=-,port=2,tags=-,plain="},
		{`{"listen_port":2,"port":1}`, "name=-,port=1,tags=-,plain="},
		{`{"tags":["x","y"]}`, "name=-,port=-,tags=x, y,plain="},
		{`{"tags":[]}`, "name=-,port=-,tags=,plain="},
		{`{"tags":null}`, "name=-,port=-,tags=null,plain="},
		{`{"Name":"a","-":"b","":"c","inner":"d","Not":"e","other":{}}`, "name=-,port=-,tags=-,plain="},
		{`{"name":"a","name":"b"}`, "name=b,port=-,tags=-,plain="},
		{`{"tags":[1]}`, "refused tags"},
		{`{"name":{},"listen_port":"x","plain":1}`, "refused name port-by-alias plain"},
		{`null`, "refused"}, {`[]`, "refused"}, {`"a"`, "refused"}, {``, "refused"}, {`{`, "refused"}, {`{}{}`, "refused"},
	} {
		var o object
		err := DecodeObject([]byte(c.in), &o)
		got := "refused"
		if e, ok := errors.AsType[*Error](err); ok {
			if e.Kind != KindInvalid {
				t.Errorf("%s: kind %s", c.in, e.Kind)
			}
			for _, f := range e.Fields {
				got += " " + strings.Replace(f.Field, "listen_port", "port-by-alias", 1)
			}
		} else {
			field := func(set, null bool, v any) string {
				switch {
				case !set:
					return "-"
				case null:
					return "null"
				}
				return fmt.Sprint(v)
			}
			got = fmt.Sprintf("name=%s,port=%s,tags=%s,plain=%s", field(o.Name.Set, o.Name.Null, o.Name.Value),
				field(o.Port.Set, o.Port.Null, o.Port.Value), field(o.Tags.Set, o.Tags.Null, o.Tags.Value), o.Plain)
		}
		if got != c.want || o.Not != "" || o.inner != "" {
			t.Errorf("%s is %s, want %s", c.in, got, c.want)
		}
	}
}

func TestInvalids(t *testing.T) {
	var v Invalids
	if v.Err() != nil {
		t.Error("an error without one")
	}
	v.Add("a", "is %d", 1)
	v.Add("a", "is %d", 2)
	if !v.AddError(Invalid("b", "bad")) || v.AddError(NotFound("x")) || v.AddError(errors.New("x")) || v.AddError(nil) {
		t.Error("AddError took the wrong ones")
	}
	e, ok := errors.AsType[*Error](v.Err())
	if !ok || e.Kind != KindInvalid || e.Field != "a" || e.Message != "is 1" || len(e.Fields) != 2 || e.Fields[1] != (FieldError{"b", "bad"}) {
		t.Errorf("%+v", e)
	}
}

func TestError(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("around: %w", &Error{Kind: KindConflict, Field: "f", Message: "m", Err: cause})
	if KindOf(err) != KindConflict || !errors.Is(err, cause) || err.Error() != "around: f: m: cause" {
		t.Errorf("%v of kind %s", err, KindOf(err))
	}
	if KindOf(cause) != KindInternal || KindOf(nil) != KindInternal {
		t.Error("kind of what has none")
	}
	for k := KindInternal; k <= KindUnavailable; k++ {
		if strings.HasPrefix(k.String(), "kind") {
			t.Errorf("kind %d has no name", k)
		}
	}
	if Kind(99).String() != "kind 99" || len(Invalid("", "x").Fields) != 0 || Conflict("f", "x").Fields[0].Field != "f" {
		t.Error("constructors")
	}
}

func FuzzDecodeObject(f *testing.F) {
	f.Add([]byte(`{"name":"a","listen_port":"1","tags":["x"],"ids":[1,"2"],"plain":"p"}`))
	f.Add([]byte(`{"ids":"[1]","port":1e400,"tags":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var o object
		if err := DecodeObject(b, &o); err != nil {
			if KindOf(err) != KindInvalid {
				t.Errorf("%s: %v", b, err)
			}
			return
		}
		again, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := DecodeObject(again, &o); err != nil {
			t.Errorf("%s became %s: %v", b, again, err)
		}
	})
}
