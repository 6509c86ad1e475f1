package certs

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkCertificate is what a handshake pays to find the certificate of one of
// 10 000 names.
func BenchmarkCertificate(b *testing.B) {
	r := newRig(b, setup{tune: func(o *Options, _ *times) { o.CAs = nil }})
	names := make([]string, 10_000)
	for i := range names {
		names[i] = time.Duration(i).String() + ".example.com"
	}
	r.m.Serve(names)
	u := brought(b, time.Hour, "*.example.com")
	r.m.Set([]Upload{u}, nil)
	b.ReportAllocs()
	for b.Loop() {
		if c, err := r.m.Certificate(names[7000]); err != nil || c != u.Cert {
			b.Fatal(err)
		}
	}
}

// BenchmarkServe is what a change of routes pays, with 10 000 names in zones and 100
// certificates that were brought.
func BenchmarkServe(b *testing.B) {
	r := newRig(b, setup{})
	r.close() // nothing is to be asked
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.zone%d.example.com", i, i%100)
	}
	uploads, zones := make([]Upload, 100), make([]Zone, 100)
	for i := range uploads {
		uploads[i] = brought(b, time.Hour, fmt.Sprintf("n%d.zone%d.example.com", i, i))
		zones[i] = Zone{Zone: fmt.Sprintf("zone%d.example.com", i), Wildcard: true}
	}
	r.m.Set(uploads, zones)
	b.ReportAllocs()
	for b.Loop() {
		r.m.Serve(names)
	}
}
