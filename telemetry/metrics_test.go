package telemetry

import "testing"

func TestAppendMetrics(t *testing.T) {
	for _, tt := range []struct {
		name string
		list []Metric
		want string
	}{
		{"nothing", nil, ""},
		{"no samples", []Metric{{Name: "a", Help: "b"}}, ""},
		{"a gauge", []Metric{Gauge("a_bytes", "Of a.", 1.5)}, "# HELP a_bytes Of a.\n# TYPE a_bytes gauge\na_bytes 1.5\n"},
		{"a counter", []Metric{Counter("a_total", "Of a.", 1<<53)}, "# HELP a_total Of a.\n# TYPE a_total counter\na_total 9.007199254740992e+15\n"},
		{"labels", []Metric{ByLabel("a_total", "Of a.", true, "kind", map[string]int{"b": 2, "a": 1})},
			"# HELP a_total Of a.\n# TYPE a_total counter\na_total{kind=\"a\"} 1\na_total{kind=\"b\"} 2\n"},
		{"two labels", []Metric{{Name: "a", Help: "Of a.", Samples: []Sample{{[]Label{{"b", "c"}, {"d", ""}}, 0}}}},
			"# HELP a Of a.\n# TYPE a gauge\na{b=\"c\",d=\"\"} 0\n"},
		{"what would end a value", []Metric{{Name: "a", Help: "b\\\nc 1", Samples: []Sample{{[]Label{{"n", "x\"} 9\n\\\xff"}}, 1}}}},
			"# HELP a b\\\\\\nc 1\n# TYPE a gauge\na{n=\"x\\\"} 9\\n\\\\�\"} 1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendMetrics(nil, tt.list)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
