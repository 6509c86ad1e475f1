package geoip

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// write makes a database of networks and their records.
func write(t testing.TB, path string, records map[string]mmdbtype.DataType) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for network, record := range records {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(n, record); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	replace(t, path, b.Bytes())
}

// replace puts a file at path the way programs that update databases do.
func replace(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func maxmind(code string) mmdbtype.DataType {
	return mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code), "geoname_id": mmdbtype.Uint32(7)}}
}

func TestCountry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.mmdb")
	write(t, path, map[string]mmdbtype.DataType{
		"81.2.69.0/24":    maxmind("GB"),
		"2a02:cf40::/29":  maxmind("NO"),
		"89.160.20.0/24":  mmdbtype.Map{"country_code": mmdbtype.String("se"), "country": mmdbtype.String("Sweden")},
		"175.16.199.0/24": mmdbtype.Map{"country": mmdbtype.String("CN")},
		"203.0.113.0/24":  mmdbtype.Map{"registered_country": mmdbtype.Map{"iso_code": mmdbtype.String("US")}},
		"198.51.100.0/24": mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("EUROPE")}},
	})
	d := Open(path, slog.New(slog.DiscardHandler))
	if err := d.Err(); err != nil || !d.Ready() {
		t.Fatal(err)
	}
	for _, tt := range []struct{ addr, want string }{
		{"81.2.69.160", "GB"},
		{"2a02:cf47::1", "NO"},
		{"89.160.20.1", "SE"},
		{"175.16.199.1", "CN"},
		{"203.0.113.1", ""},
		{"198.51.100.1", ""},
		{"192.0.2.1", ""},
		{"2001:db8::1", ""},
	} {
		got, err := d.Country(netip.MustParseAddr(tt.addr))
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %q, %v; want %q", tt.addr, got, err, tt.want)
		}
	}
}

// TestReload changes the file while lookups run.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.mmdb")
	addr := netip.MustParseAddr("81.2.69.160")
	d := Open(path, slog.New(slog.DiscardHandler))
	if _, err := d.Country(addr); err == nil || errors.Is(err, ErrUnknown) || d.Err() == nil || d.Ready() {
		t.Errorf("without a file: %v, %v", err, d.Err())
	}
	step := func(what, want string, good bool) {
		t.Helper()
		d.check()
		if got, err := d.Country(addr); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
		if (d.Err() == nil) != good {
			t.Errorf("%s: %v", what, d.Err())
		}
	}
	write(t, path, map[string]mmdbtype.DataType{"81.2.69.0/24": maxmind("GB")})
	step("the first file", "GB", true)

	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := d.Country(addr); err != nil || got != "GB" && got != "FR" && got != "IT" {
					t.Errorf("meanwhile: %q, %v", got, err)
					return
				}
			}
		})
	}
	write(t, path, map[string]mmdbtype.DataType{"81.2.69.0/24": maxmind("FR")})
	step("a newer file", "FR", true)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, path, good[:len(good)/2])
	step("half a file", "FR", false)
	replace(t, path, []byte("not a database"))
	step("another file", "FR", false)
	bad := bytes.Clone(good)
	for i := range 40 { // the search tree is at the start
		bad[i] = 0xff
	}
	replace(t, path, bad)
	step("a damaged file", "FR", false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("no file", "FR", false)
	write(t, path, map[string]mmdbtype.DataType{"81.2.69.0/24": maxmind("IT")})
	step("a good one again", "IT", true)
	// In place, with the same length.
	if err := os.WriteFile(path, bytes.Replace(good, []byte("FR"), []byte("GB"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	step("in place", "GB", true)
	close(stop)
	readers.Wait()
}

func BenchmarkCountry(b *testing.B) {
	path := filepath.Join(b.TempDir(), "c.mmdb")
	write(b, path, map[string]mmdbtype.DataType{"81.2.69.0/24": maxmind("GB")})
	d := Open(path, slog.New(slog.DiscardHandler))
	addr := netip.MustParseAddr("81.2.69.160")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Country(addr); err != nil {
			b.Fatal(err)
		}
	}
}
