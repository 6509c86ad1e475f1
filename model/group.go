package model

import (
	"regexp"
	"strings"
	"time"
	"unicode"
)

// DefaultGroupColor is the colour of a group for which none was picked.
const DefaultGroupColor = "#6b7280"

// Group is a set of peers under one name. A peer is in one group at most. The
// switches hold for every member in addition to its own.
type Group struct {
	ID          GroupID `json:"id"`
	Name        string  `json:"name"`
	Color       string  `json:"color"` // of its label: # and 3 to 8 hex digits
	Description string  `json:"description,omitempty"`

	Isolated bool `json:"isolated,omitempty"` // members neither reach other peers, each other included, nor are reached by them
	NoExit   bool `json:"no_exit,omitempty"`  // members do not reach the internet through this server

	CreatedAt time.Time `json:"created_at"`
}

var groupColor = regexp.MustCompile(`^#[0-9a-fA-F]{3,8}$`)

// ParseGroupName trims s and checks it: 1 to 64 characters, none of them a
// control character.
func ParseGroupName(s string) (string, error) {
	s = strings.TrimSpace(s)
	if n := len([]rune(s)); n < 1 || n > 64 || strings.ContainsFunc(s, unicode.IsControl) {
		return "", Invalid("name", "must be 1-64 characters without control characters")
	}
	return s, nil
}

// ParseGroupColor checks a colour; the empty text is DefaultGroupColor.
func ParseGroupColor(s string) (string, error) {
	if s == "" {
		return DefaultGroupColor, nil
	}
	if !groupColor.MatchString(s) {
		return "", Invalid("color", "must be # and 3 to 8 hex digits, such as %s", DefaultGroupColor)
	}
	return s, nil
}
