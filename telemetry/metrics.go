package telemetry

import (
	"slices"
	"strconv"
	"strings"
)

// Metric is one family of the text format of Prometheus, version 0.0.4.
type Metric struct {
	Name    string // of the conventions: unit at the end, and total for what only grows
	Help    string
	Counter bool // it only grows while the process lives; else a gauge
	Samples []Sample
}

// Sample is one value of a Metric.
type Sample struct {
	Labels []Label
	Value  float64
}

// Label tells samples of one family apart.
type Label struct{ Name, Value string }

// Gauge is a metric of one value that goes up and down.
func Gauge(name, help string, value float64) Metric {
	return Metric{Name: name, Help: help, Samples: []Sample{{Value: value}}}
}

// Counter is a metric of one value that only grows.
func Counter(name, help string, value float64) Metric {
	return Metric{Name: name, Help: help, Counter: true, Samples: []Sample{{Value: value}}}
}

// ByLabel is a metric with one sample for each value of a label, in their order.
func ByLabel[N int | int64](name, help string, counter bool, label string, values map[string]N) Metric {
	m := Metric{Name: name, Help: help, Counter: counter}
	for key, n := range values {
		m.Samples = append(m.Samples, Sample{[]Label{{label, key}}, float64(n)})
	}
	slices.SortFunc(m.Samples, func(a, b Sample) int { return strings.Compare(a.Labels[0].Value, b.Labels[0].Value) })
	return m
}

// MetricsType is the media type of what AppendMetrics writes.
const MetricsType = "text/plain; version=0.0.4; charset=utf-8"

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// AppendMetrics writes list in the text format; what has no sample is left out.
func AppendMetrics(b []byte, list []Metric) []byte {
	for _, m := range list {
		if len(m.Samples) == 0 {
			continue
		}
		kind := "gauge"
		if m.Counter {
			kind = "counter"
		}
		b = append(b, "# HELP "+m.Name+" "+escapeHelp.Replace(m.Help)+"\n# TYPE "+m.Name+" "+kind+"\n"...)
		for _, s := range m.Samples {
			b = append(b, m.Name...)
			for i, l := range s.Labels {
				separator := byte(',')
				if i == 0 {
					separator = '{'
				}
				b = append(b, separator)
				b = append(b, l.Name+`="`+escapeLabel.Replace(strings.ToValidUTF8(l.Value, "�"))+`"`...)
			}
			if len(s.Labels) > 0 {
				b = append(b, '}')
			}
			b = append(strconv.AppendFloat(append(b, ' '), s.Value, 'g', -1, 64), '\n')
		}
	}
	return b
}
