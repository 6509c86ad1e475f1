package acme

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Revoke has the responder call a certificate revoked from now on.
func (a *Authority) Revoke(cert *x509.Certificate) { a.revoked.Store(cert.SerialNumber.String(), true) }

// respond is the OCSP responder (RFC 6960, appendix A). Half of the time for which its
// answers are good is over, so that the next look asks again.
func (a *Authority) respond(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if r.Method == http.MethodGet {
		var text string
		if text, err = url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/")); err == nil {
			raw, err = base64.StdEncoding.DecodeString(text)
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	req, err := ocsp.ParseRequest(raw)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	status := ocsp.Good
	if _, ok := a.revoked.Load(req.SerialNumber.String()); ok {
		status = ocsp.Revoked
	}
	issuer := a.issuer.GetIntermediateCert(0).Cert
	now := time.Now().Truncate(time.Second)
	answer, err := ocsp.CreateResponse(issuer, issuer, ocsp.Response{
		Status: status, SerialNumber: req.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Minute),
		RevokedAt: now.Add(-time.Second), RevocationReason: ocsp.Superseded, IssuerHash: crypto.SHA1,
	}, a.issuer.GetIntermediateKey(0))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	_, _ = w.Write(answer)
}
