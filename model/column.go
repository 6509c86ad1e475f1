package model

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Column is a member of a request object that holds JSON: as it is, or as its
// text, since it is a column of text in GateControl's tables. Null, its text, and
// an empty text are all null.
type Column[T any] struct {
	Set   bool // the member was there
	Null  bool // and was null
	Value T    // the zero value unless Set and not Null
}

// UnmarshalJSON reads a member that is there.
func (c *Column[T]) UnmarshalJSON(b []byte) error {
	*c = Column[T]{Set: true}
	if len(b) > 0 && b[0] == '"' {
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
		b = bytes.TrimSpace([]byte(text))
	}
	if len(b) == 0 || bytes.Equal(b, []byte("null")) {
		c.Null = true
		return nil
	}
	if !json.Valid(b) {
		return fmt.Errorf("is not JSON")
	}
	return json.Unmarshal(b, &c.Value)
}

// MarshalJSON writes the value, or null.
func (c Column[T]) MarshalJSON() ([]byte, error) {
	if !c.Set || c.Null {
		return []byte("null"), nil
	}
	return json.Marshal(c.Value)
}

// List is a JSON list whose error says which elements cannot be read.
type List[E any] []E

// maxList bounds what is read of a list before its own limit is looked at.
const maxList = 1000

// UnmarshalJSON reads a list; the fields of its error are "[0]" and so on.
func (l *List[E]) UnmarshalJSON(b []byte) error {
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("must be a list")
	}
	if len(raw) > maxList {
		return fmt.Errorf("must have at most %d elements", maxList)
	}
	list := make(List[E], len(raw))
	var bad Invalids
	for i, r := range raw {
		if err := json.Unmarshal(r, &list[i]); err != nil {
			bad.Add(fmt.Sprintf("[%d]", i), "%s", err)
		}
	}
	if err := bad.Err(); err != nil {
		return err
	}
	*l = list
	return nil
}

// Numbers are a list of whole numbers; texts of numbers are read as such.
type Numbers []int64

// UnmarshalJSON reads a list.
func (n *Numbers) UnmarshalJSON(b []byte) (err error) {
	*n, err = lenientInts(b)
	return err
}

// ListText is a list as the JSON text of a column, nil for an empty one.
func ListText[E any](list []E) *string {
	if len(list) == 0 {
		return nil
	}
	return columnText(list)
}

// columnText is v, which is one of our own types, as the text of a column.
func columnText(v any) *string {
	b, err := json.Marshal(v)
	if err != nil {
		return nil // cannot be
	}
	s := string(b)
	return &s
}
