package api

import (
	"net/netip"
	"strings"
	"time"
)

// The forms in which the contract writes things.

// int01 is a stored flag: 0 or 1.
type int01 int

func bit(b bool) int01 {
	if b {
		return 1
	}
	return 0
}

// dt is "YYYY-MM-DD HH:MM:SS" in UTC.
func dt(t time.Time) string { return t.UTC().Format(time.DateTime) }

func dtOrNull(t *time.Time) *string {
	if t == nil || t.IsZero() {
		return nil
	}
	text := dt(*t)
	return &text
}

// iso is RFC 3339 with milliseconds and Z.
func iso(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func isoOrNull(t *time.Time) *string {
	if t == nil || t.IsZero() {
		return nil
	}
	text := iso(*t)
	return &text
}

// unix is seconds since the epoch, 0 for never.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// numberOrNull is n, null for 0, which stands for none.
func numberOrNull(n uint64) *uint64 {
	if n == 0 {
		return nil
	}
	return &n
}

// joined writes a list with commas, null if it is empty.
func joined(list []netip.Addr) *string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return orNull(strings.Join(texts, ","))
}

func prefixes(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}
