package certs

import (
	"crypto/tls"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"gatecontrol/model"
)

// TestOCSP: what the issuer says of the certificate is in the handshake, and one
// that was revoked is replaced by itself, on our schedule.
func TestOCSP(t *testing.T) {
	r := newRig(t, setup{ocsp: true, tune: func(_ *Options, tm *times) { tm.staple = 50 * time.Millisecond }})
	r.serve("app.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
	state := func() tls.ConnectionState {
		c, err := tls.Dial("tcp", r.tls.Addr().String(), &tls.Config{ServerName: "app.example.com", RootCAs: r.pebble.Roots})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState()
	}
	r.waitFor("a staple", func() bool { return len(state().OCSPResponse) > 0 })
	st := state()
	answer, err := ocsp.ParseResponseForCert(st.OCSPResponse, st.PeerCertificates[0], st.PeerCertificates[1])
	if err != nil || answer.Status != ocsp.Good {
		t.Fatalf("%+v, %v", answer, err)
	}
	first := st.PeerCertificates[0]
	r.waitIdle("app.example.com")
	r.pebble.Revoke(first)
	r.waitFor("another certificate", func() bool { return !r.shown("app.example.com").Equal(first) })
	if n := r.pebble.Orders.Load(); n != 2 {
		t.Errorf("%d orders", n)
	}
	if st := r.status("app.example.com"); st.State != model.CertValid || st.Failures != 0 {
		t.Errorf("%+v", st)
	}
}
