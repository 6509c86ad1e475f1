package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of access windows. The longest week that people write has one entry for
// each half of each day.
const (
	MaxWindows       = 32 // of one route or peer
	MaxSchedule      = 1000
	maxScheduleParts = 50
	MaxWindowLabel   = 100
)

// What a window says of its times.
const (
	WindowAllow = "allow"
	WindowBlock = "block"
)

// Window says when a route or a peer can be used, or when not (access rule in the
// API). Its times are those of the clock on this server's wall.
type Window struct {
	ID       WindowID `json:"id"` // among those of its route or peer
	Mode     string   `json:"mode"`
	Schedule string   `json:"schedule"`              // as it was written, see ParseSchedule
	From     string   `json:"valid_from,omitempty"`  // the first day on which it counts, YYYY-MM-DD; empty: every one before Until
	Until    string   `json:"valid_until,omitempty"` // the last day
	Label    string   `json:"label,omitempty"`
}

// Windows are those of one route or peer, in the order in which they were made.
type Windows struct {
	List []Window `json:"list,omitempty"`
	Last WindowID `json:"last,omitempty"` // the highest number that one of them had
}

// IsZero reports whether there never were any.
func (ws Windows) IsZero() bool { return ws.Last == 0 }

// Read returns the schedule of w, or an error of KindInvalid with every field at fault.
func (w *Window) Read() (Schedule, error) {
	var bad Invalids
	if w.Mode != WindowAllow && w.Mode != WindowBlock {
		bad.Add("mode", "must be allow or block")
	}
	schedule, err := ParseSchedule(w.Schedule)
	if err != nil {
		bad.Add("schedule", "%s", err)
	}
	for _, d := range []struct{ field, text string }{{"valid_from", w.From}, {"valid_until", w.Until}} {
		if _, err := time.Parse(time.DateOnly, d.text); d.text != "" && err != nil {
			bad.Add(d.field, "must be a day such as 2026-12-31")
		}
	}
	if w.Until != "" && w.Until < w.From { // days sort as texts
		bad.Add("valid_until", "is before valid_from")
	}
	if utf8.RuneCountInString(w.Label) > MaxWindowLabel {
		bad.Add("label", "must be at most %d characters", MaxWindowLabel)
	}
	return schedule, bad.Err()
}

// At reports whether ws lets anybody in at the time now, in whose location the
// schedules are, and the window that decided, nil if none did. One that blocks goes
// before those that allow; of those, one has to hold if there are any that count on
// the day. What cannot be read blocks.
func (ws *Windows) At(now time.Time) (open bool, by *Window) {
	open = true
	var allowed *Window
	for i := range ws.List {
		w := &ws.List[i]
		holds, counts, err := w.at(now)
		switch {
		case err != nil, w.Mode == WindowBlock && holds:
			return false, w
		case w.Mode == WindowAllow && counts:
			open = false
			if holds && allowed == nil {
				allowed = w
			}
		}
	}
	return open || allowed != nil, allowed
}

// Open is At without a reason.
func (ws *Windows) Open(now time.Time) bool {
	open, _ := ws.At(now)
	return open
}

// at reports whether w counts on the day of now, and whether now is one of its times.
func (w *Window) at(now time.Time) (holds, counts bool, err error) {
	schedule, err := w.Read()
	if err != nil {
		return false, false, err
	}
	today := now.Format(time.DateOnly)
	counts = w.From <= today && (w.Until == "" || today <= w.Until)
	return counts && schedule.Contains(now), counts, nil
}

// Schedule are times of a week.
type Schedule []WeekSpan

// WeekSpan are the same hours of some days in a row, of which the last one may be
// in the next week. Minutes are counted from midnight; hours that end no later than
// they begin end on the next day.
type WeekSpan struct {
	First, Last time.Weekday
	From, To    int
}

// The names of days, by which schedules are written and shown, from Sunday on.
var (
	dayNames = map[string][7]string{
		"en": {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"},
		"de": {"So", "Mo", "Di", "Mi", "Do", "Fr", "Sa"},
	}
	daysByName = func() map[string]time.Weekday {
		days := make(map[string]time.Weekday)
		for _, names := range dayNames {
			for d, name := range names {
				days[strings.ToLower(name)] = time.Weekday(d)
			}
		}
		return days
	}()
)

// ParseSchedule reads entries such as "Mo-Fr 09:00-17:00", separated by lines or
// semicolons, with English or German names of days. Its errors are for people, and
// name the entry at fault.
func ParseSchedule(text string) (Schedule, error) {
	if len(text) > MaxSchedule {
		return nil, fmt.Errorf("must not be longer than %d bytes", MaxSchedule)
	}
	var s Schedule
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		if len(s) == maxScheduleParts {
			return nil, fmt.Errorf("must not have more than %d entries", maxScheduleParts)
		}
		span, err := parseSpan(part)
		if err != nil {
			return nil, fmt.Errorf("entry %d %w", len(s)+1, err)
		}
		s = append(s, span)
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("must have an entry such as Mon-Fri 09:00-17:00")
	}
	return s, nil
}

func parseSpan(text string) (span WeekSpan, err error) {
	words := strings.Fields(text)
	if len(words) != 2 {
		return span, fmt.Errorf("must be days and hours, such as Mon-Fri 09:00-17:00")
	}
	first, last, several := strings.Cut(words[0], "-")
	if !several {
		last = first
	}
	var ok [2]bool
	span.First, ok[0] = daysByName[strings.ToLower(first)]
	span.Last, ok[1] = daysByName[strings.ToLower(last)]
	if !ok[0] || !ok[1] {
		return span, fmt.Errorf("must begin with a day or days: Mon to Sun or Mo to So, as in Mon-Fri")
	}
	from, to, _ := strings.Cut(words[1], "-")
	span.From, ok[0] = parseMinute(from)
	span.To, ok[1] = parseMinute(to)
	switch {
	case !ok[0] || !ok[1] || span.From == minutesOfDay:
		return span, fmt.Errorf("must end with hours from 00:00 to 24:00, such as 09:00-17:00")
	case span.From == span.To:
		return span, fmt.Errorf("begins and ends at the same time; the whole day is 00:00-24:00")
	}
	return span, nil
}

const (
	minutesOfDay  = 24 * 60
	minutesOfWeek = 7 * minutesOfDay
)

// parseMinute reads HH:MM, 00:00 to 24:00.
func parseMinute(text string) (int, bool) {
	if len(text) != 5 || text[2] != ':' {
		return 0, false
	}
	h, err := strconv.ParseUint(text[:2], 10, 8)
	m, err2 := strconv.ParseUint(text[3:], 10, 8)
	n := int(h)*60 + int(m)
	return n, err == nil && err2 == nil && m < 60 && n <= minutesOfDay
}

// Contains reports whether now is one of the times, by the clock of its location.
func (s Schedule) Contains(now time.Time) bool {
	minute := int(now.Weekday())*minutesOfDay + now.Hour()*60 + now.Minute()
	return slices.ContainsFunc(s, func(e WeekSpan) bool { return e.contains(minute) })
}

// contains takes minutes from the start of Sunday.
func (e WeekSpan) contains(minute int) bool {
	length := e.To - e.From
	if length <= 0 {
		length += minutesOfDay
	}
	days := int(e.Last-e.First+7)%7 + 1
	for i := range days {
		start := (int(e.First)+i)*minutesOfDay + e.From
		if (minute-start+2*minutesOfWeek)%minutesOfWeek < length {
			return true
		}
	}
	return false
}

// Text writes s with the names that days have in a language, "en" or "de".
func (s Schedule) Text(language string) string {
	names := dayNames[language]
	parts := make([]string, len(s))
	for i, e := range s {
		days := names[e.First]
		if e.First != e.Last {
			days += "–" + names[e.Last]
		}
		parts[i] = fmt.Sprintf("%s %02d:%02d–%02d:%02d", days, e.From/60, e.From%60, e.To/60, e.To%60)
	}
	return strings.Join(parts, ", ")
}
