package model

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestParseSchedule(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{text: "Mo-Fr 09:00-17:00", want: "Mon–Fri 09:00–17:00"},
		{text: " mon-FRI 09:00-17:00 ;\n Sa 10:00-12:30;", want: "Mon–Fri 09:00–17:00, Sat 10:00–12:30"},
		{text: "Fr-Mo 22:00-06:00", want: "Fri–Mon 22:00–06:00"},
		{text: "So 00:00-24:00", want: "Sun 00:00–24:00"},
		{text: "Di 23:59-00:00", want: "Tue 23:59–00:00"},
		{text: "Mi-Mi 00:00-00:01", want: "Wed 00:00–00:01"},
		{text: "Do\t08:00-09:00\r\nSun 08:00-09:00", want: "Thu 08:00–09:00, Sun 08:00–09:00"},

		{text: "", err: "must have an entry"},
		{text: " ; \n", err: "must have an entry"},
		{text: "Mo-Fr", err: "entry 1 must be days and hours"},
		{text: "Mo - Fr 09:00-17:00", err: "entry 1 must be days and hours"},
		{text: "Mo 09:00-17:00; Xy 09:00-17:00", err: "entry 2 must begin with a day"},
		{text: "Mo-Di-Mi 09:00-17:00", err: "entry 1 must begin with a day"},
		{text: "-Fr 09:00-17:00", err: "entry 1 must begin with a day"},
		{text: "Monday 09:00-17:00", err: "entry 1 must begin with a day"},
		{text: "Mo 9:00-17:00", err: "entry 1 must end with hours"},
		{text: "Mo 09:00-17:60", err: "entry 1 must end with hours"},
		{text: "Mo 09:00-24:01", err: "entry 1 must end with hours"},
		{text: "Mo 24:00-09:00", err: "entry 1 must end with hours"},
		{text: "Mo +9:00-17:00", err: "entry 1 must end with hours"},
		{text: "Mo 09:00", err: "entry 1 must end with hours"},
		{text: "Mo 09:00-17:00-18:00", err: "entry 1 must end with hours"},
		{text: "Mo 09:00-09:00", err: "entry 1 begins and ends at the same time"},
		{text: strings.Repeat("Mo 09:00-10:00;", 51), err: "must not have more than 50 entries"},
		{text: strings.Repeat(" ", 1001), err: "must not be longer than 1000 bytes"},
	} {
		s, err := ParseSchedule(tt.text)
		switch {
		case tt.err != "":
			if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("%.40q: %v, want %q", tt.text, err, tt.err)
			}
		case err != nil:
			t.Errorf("%.40q: %v", tt.text, err)
		case s.Text("en") != tt.want:
			t.Errorf("%.40q reads as %s, want %s", tt.text, s.Text("en"), tt.want)
		}
	}
	s, err := ParseSchedule("Wed-Sun 09:00-17:00")
	if got := s.Text("de"); err != nil || got != "Mi–So 09:00–17:00" {
		t.Errorf("in German: %s, %v", got, err)
	}
}

// sunday is a day on which a week begins.
var sunday = time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)

// slowly is Contains by walking through every minute of every span of two weeks.
func slowly(s Schedule, minute int) bool {
	for _, e := range s {
		for from := range 2 * 7 {
			if time.Weekday(from%7) != e.First {
				continue
			}
			for d := from; ; d++ {
				for m := d*24*60 + e.From; ; m++ {
					if m%(7*24*60) == minute {
						return true
					}
					if next := (m + 1) % (24 * 60); next == e.To%(24*60) {
						break
					}
				}
				if time.Weekday(d%7) == e.Last {
					break
				}
			}
		}
	}
	return false
}

func TestScheduleAgainstMinutes(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		e := WeekSpan{time.Weekday(r.IntN(7)), time.Weekday(r.IntN(7)), r.IntN(24 * 60), r.IntN(24*60 + 1)}
		if e.From == e.To {
			continue
		}
		s := Schedule{e}
		for range 300 {
			minute := r.IntN(7 * 24 * 60)
			if r.IntN(3) == 0 { // close to a boundary
				minute = (int(e.First)*24*60 + []int{e.From, e.To}[r.IntN(2)] + r.IntN(3) - 1 + 7*24*60) % (7 * 24 * 60)
			}
			now := sunday.Add(time.Duration(minute)*time.Minute + 59*time.Second)
			if got, want := s.Contains(now), slowly(s, minute); got != want {
				t.Fatalf("%s at %s: %v (seed %d)", s.Text("en"), now.Format("Mon 15:04"), got, seed)
			}
		}
	}
}

func TestWindows(t *testing.T) {
	allow := func(schedule string) Window { return Window{Mode: WindowAllow, Schedule: schedule} }
	block := func(schedule string) Window { return Window{Mode: WindowBlock, Schedule: schedule} }
	days := func(w Window, from, until string) Window { w.From, w.Until = from, until; return w }
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	noon := sunday.Add(36 * time.Hour) // Monday, 30 November
	for _, tt := range []struct {
		name string
		list []Window
		now  time.Time
		open bool
		by   int // of list; -1: none
	}{
		{"none", nil, noon, true, -1},
		{"allowed", []Window{allow("Mo 12:00-13:00")}, noon, true, 0},
		{"the end is outside", []Window{allow("Mo 11:00-12:00")}, noon, false, -1},
		{"one of two allows", []Window{allow("Di 12:00-13:00"), allow("Mo 12:00-13:00")}, noon, true, 1},
		{"blocked", []Window{block("Mo 12:00-13:00")}, noon, false, 0},
		{"not blocked", []Window{block("Mo 13:00-14:00")}, noon, true, -1},
		{"block goes before allow", []Window{allow("Mo 00:00-24:00"), block("Mo 12:00-13:00")}, noon, false, 1},
		{"of a day that is over", []Window{days(allow("Di 12:00-13:00"), "", "2026-11-29")}, noon, true, -1},
		{"of a day that has not come", []Window{days(block("Mo 00:00-24:00"), "2026-12-01", "")}, noon, true, -1},
		{"on its only day", []Window{days(block("Mo 00:00-24:00"), "2026-11-30", "2026-11-30")}, noon, false, 0},
		{"days of the clock on the wall", []Window{days(block("Mo-So 00:00-24:00"), "2026-12-01", "")},
			time.Date(2026, 11, 30, 23, 30, 0, 0, time.UTC).In(berlin), false, 0},
		{"summer", []Window{allow("Mo 09:00-10:00")}, time.Date(2026, 7, 6, 7, 30, 0, 0, time.UTC).In(berlin), true, 0},
		{"winter", []Window{allow("Mo 09:00-10:00")}, time.Date(2026, 11, 30, 7, 30, 0, 0, time.UTC).In(berlin), false, -1},
		{"the hour that a clock shows twice", []Window{allow("So 02:30-02:45")}, time.Date(2026, 10, 25, 1, 35, 0, 0, time.UTC).In(berlin), true, 0},
		{"a mode that nobody knows", []Window{{Mode: "maybe", Schedule: "Mo 00:00-24:00"}}, noon, false, 0},
		{"a schedule that nobody can read", []Window{block("soon")}, noon, false, 0},
		{"a day that nobody can read", []Window{days(block("Di 00:00-24:00"), "soon", "")}, noon, false, 0},
	} {
		ws := Windows{List: tt.list}
		open, by := ws.At(tt.now)
		want := (*Window)(nil)
		if tt.by >= 0 {
			want = &tt.list[tt.by]
		}
		if open != tt.open || by != want {
			t.Errorf("%s: open %v by %v", tt.name, open, by)
		}
	}
}

func TestWindowRead(t *testing.T) {
	good := Window{Mode: WindowAllow, Schedule: "Mo 09:00-10:00", From: "2026-01-01", Until: "2026-01-01", Label: strings.Repeat("ü", MaxWindowLabel)}
	if _, err := good.Read(); err != nil {
		t.Fatal(err)
	}
	bad := Window{Mode: "Allow", Schedule: "Mo", From: "2026-1-1", Until: "2026-02-30", Label: good.Label + "x"}
	_, err := bad.Read()
	e, ok := err.(*Error)
	if !ok || len(e.Fields) != 5 {
		t.Errorf("%v", err)
	}
	good.From = "2026-01-02"
	if _, err := good.Read(); err == nil || err.(*Error).Field != "valid_until" {
		t.Errorf("the last day before the first one: %v", err)
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("Mo-Fr 09:00-17:00; Sa 10:00-12:00\nSun 22:00-06:00")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			return
		}
		// What is shown of it reads as the same.
		shown := strings.NewReplacer("–", "-", ", ", ";").Replace(s.Text("de"))
		again, err := ParseSchedule(shown)
		if err != nil || again.Text("en") != s.Text("en") {
			t.Fatalf("%q is shown as %q: %v", text, shown, err)
		}
		for m := range 7 * 24 * 60 / 7 {
			s.Contains(sunday.Add(time.Duration(m) * 7 * time.Minute))
		}
	})
}
