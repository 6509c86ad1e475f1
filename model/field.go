package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Field is one member of a request object. It tells absent from null from a
// value, which partial updates need, and reads the spellings that existing
// clients send: 0, 1, "0", "1", "true" and "false" for flags, numeric strings
// for numbers, numbers for texts. An empty text for a number, which a form sends
// for an empty field, is null.
type Field[T string | bool | int64 | []int64] struct {
	Set   bool // the member was there
	Null  bool // and was null
	Value T    // the zero value unless Set and not Null
}

// Value returns a Field that is set to v.
func Value[T string | bool | int64 | []int64](v T) Field[T] { return Field[T]{Set: true, Value: v} }

// Or returns the value, or def if the member was absent or null.
func (f Field[T]) Or(def T) T {
	if !f.Set || f.Null {
		return def
	}
	return f.Value
}

// UnmarshalJSON reads a member that is there.
func (f *Field[T]) UnmarshalJSON(b []byte) error {
	*f = Field[T]{Set: true}
	if bytes.Equal(b, []byte("null")) {
		f.Null = true
		return nil
	}
	var err error
	switch p := any(&f.Value).(type) {
	case *string:
		*p, err = lenientString(b)
	case *bool:
		*p, err = lenientBool(b)
	case *int64:
		if f.Null = blank(b); !f.Null {
			*p, err = lenientInt(b)
		}
	case *[]int64:
		*p, err = lenientInts(b)
	}
	return err
}

// MarshalJSON writes the value, or null.
func (f Field[T]) MarshalJSON() ([]byte, error) {
	if !f.Set || f.Null {
		return []byte("null"), nil
	}
	return json.Marshal(f.Value)
}

func lenientString(b []byte) (string, error) {
	switch b[0] {
	case '"':
		var s string
		err := json.Unmarshal(b, &s)
		return s, err
	case '[', '{', 't', 'f':
		return "", fmt.Errorf("must be a text")
	}
	return string(b), nil
}

func lenientBool(b []byte) (bool, error) {
	switch strings.Trim(string(b), `"`) {
	case "true", "1", "on":
		return true, nil
	case "false", "0", "off", "":
		return false, nil
	}
	return false, fmt.Errorf("must be true or false")
}

// blank reports whether b is a JSON text of nothing but spaces.
func blank(b []byte) bool {
	return len(b) > 1 && b[0] == '"' && len(bytes.TrimSpace(b[1:len(b)-1])) == 0
}

func lenientInt(b []byte) (int64, error) {
	s := string(b)
	if b[0] == '"' {
		if err := json.Unmarshal(b, &s); err != nil {
			return 0, err
		}
		s = strings.TrimSpace(s)
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	if x, err := strconv.ParseFloat(s, 64); err == nil && x == math.Trunc(x) && math.Abs(x) < 1<<53 {
		return int64(x), nil
	}
	return 0, fmt.Errorf("must be a whole number")
}

func lenientInts(b []byte) ([]int64, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("must be a list of whole numbers")
	}
	out := make([]int64, len(raw))
	for i, r := range raw {
		n, err := lenientInt(r)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}
