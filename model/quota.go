package model

import (
	"cmp"
	"slices"
	"time"
)

// Month is a calendar month in UTC, such as "2026-11". Months sort as texts.
type Month string

const monthLayout = "2006-01"

// MonthOf returns the month that t lies in.
func MonthOf(t time.Time) Month { return Month(t.UTC().Format(monthLayout)) }

// End returns the first moment after m, zero if m is no month.
func (m Month) End() time.Time {
	t, err := time.Parse(monthLayout, string(m))
	if err != nil {
		return time.Time{}
	}
	return t.AddDate(0, 1, 0)
}

// monthsKept is how many months Months remembers: the current one, and those on
// either side of it, so that a clock that is set back over the end of a month,
// and then goes on, finds both as they were.
const monthsKept = 3

// Months holds a number, 0 where it has none, for each of a few months, in their
// order. It is not written: With makes another one.
type Months []MonthCount

// MonthCount is one number of Months.
type MonthCount struct {
	Month Month  `json:"month"`
	N     uint64 `json:"n"`
}

func (c MonthCount) compare(m Month) int { return cmp.Compare(c.Month, m) }

// In returns the number of m.
func (ms Months) In(m Month) uint64 {
	if i, ok := slices.BinarySearchFunc(ms, m, MonthCount.compare); ok {
		return ms[i].N
	}
	return 0
}

// With returns ms with n as the number of m. Of more than it keeps, the oldest
// but m goes: neither a clock that starts in 1970 and is set later nor one that
// once was years ahead costs the present its number.
func (ms Months) With(m Month, n uint64) Months {
	i, found := slices.BinarySearchFunc(ms, m, MonthCount.compare)
	out := slices.Clone(ms)
	switch {
	case found && n == 0:
		return slices.Delete(out, i, i+1)
	case found:
		out[i].N = n
		return out
	case n == 0:
		return out
	}
	out = slices.Insert(out, i, MonthCount{m, n})
	if len(out) <= monthsKept {
		return out
	}
	oldest := 0
	if i == 0 {
		oldest = 1
	}
	return slices.Delete(out, oldest, oldest+1)
}

// Plus returns the sum of ms and other, month by month.
func (ms Months) Plus(other Months) Months {
	for _, c := range other {
		ms = ms.With(c.Month, ms.In(c.Month)+c.N)
	}
	return ms
}

// QuotaAction says what becomes of a peer that has used up its quota.
type QuotaAction string

// The actions.
const (
	QuotaBlock  QuotaAction = "block"  // it is cut until the next month or a higher quota
	QuotaNotify QuotaAction = "notify" // an event, nothing else
)

// ParseQuotaAction checks s; the empty text is QuotaBlock.
func ParseQuotaAction(s string) (QuotaAction, error) {
	switch a := QuotaAction(s); a {
	case "":
		return QuotaBlock, nil
	case QuotaBlock, QuotaNotify:
		return a, nil
	}
	return "", Invalid("quota_action", "must be block or notify")
}

// The parts of a quota, in percent, whose use is told.
const (
	QuotaWarning  = 80
	QuotaExceeded = 100
)

// QuotaLevel returns which of them used reaches of quota, both in bytes; 0 is
// none, as without a quota.
func QuotaLevel(used, quota uint64) uint64 {
	switch {
	case quota == 0:
		return 0
	case used >= quota:
		return QuotaExceeded
	case used >= quota-quota/5:
		return QuotaWarning
	}
	return 0
}

// MaxQuota is the largest quota in bytes: the largest number that every reader
// of JSON holds exactly (RFC 8259 section 6).
const MaxQuota = 1<<53 - 1

// ParseQuota checks a quota in bytes a month; 0 is none.
func ParseQuota(n int64) (uint64, error) {
	if n < 0 || n > MaxQuota {
		return 0, Invalid("quota_bytes", "must be 0 for none, or up to %d bytes", int64(MaxQuota))
	}
	return uint64(n), nil
}

// The bounds of a rate limit in bits per second. Below the least, a handshake
// and a DNS answer take longer than programs wait; above the most no machine
// gets.
const (
	MinRateLimit = 64_000
	MaxRateLimit = 100_000_000_000
)

// ParseRateLimit checks a rate limit in bits per second; 0 is none.
func ParseRateLimit(field string, n int64) (uint64, error) {
	if n != 0 && (n < MinRateLimit || n > MaxRateLimit) {
		return 0, Invalid(field, "must be 0 for none, or %d to %d bits per second", int64(MinRateLimit), int64(MaxRateLimit))
	}
	return uint64(n), nil
}
