package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/mholt/acmez/v3/acme"
)

// maxDetail bounds what is kept of an authority's words.
const maxDetail = 400

// explain says in plain words what went wrong, and what to do. Of several errors
// the first one that a person can do something about is explained.
func explain(err error) (text, advice string) {
	list := []caError{{err: err}}
	if all, ok := errors.AsType[*attemptError](err); ok {
		list = all.errs
	}
	for _, e := range list {
		if t, a, own := explainOne(e.err); text == "" || own {
			if text, advice = t, a; e.ca != "" && !strings.Contains(t, e.ca) {
				text = e.ca + ": " + t
			}
			if own {
				break
			}
		}
	}
	return text, advice
}

const again = "It is tried again by itself."

// explainOne also reports whether the cause is on this side.
func explainOne(err error) (text, advice string, own bool) {
	var limited *limitedError
	var zone *dnsError
	var problem acme.Problem
	var dns *net.DNSError
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &limited):
		return limited.Error(), "There is nothing to do but wait. " + again, false
	case errors.As(err, &zone):
		return clean(zone.Error()), "Check the credentials and the zone in the settings of the DNS provider.", true
	case errors.Is(err, errNoBinding):
		return err.Error(), "Set GC_ACME_EAB_KEY_ID and GC_ACME_EAB_KEY to what the authority gave you.", true
	case errors.As(err, &problem):
		return explainProblem(problem)
	case errors.As(err, &unknown):
		return "the connection to the authority is not trusted: " + clean(unknown.Error()), "For an authority of your own, name its root certificate in GC_ACME_CA_ROOT.", true
	case errors.As(err, &dns):
		return "the name of the authority cannot be looked up: " + clean(dns.Error()), "Check that this server reaches its resolver, and GC_ACME_CA if it is set. " + again, false
	case errors.As(err, &op):
		return "the authority cannot be reached: " + clean(op.Error()), "Check that this server reaches the internet, and GC_ACME_CA if it is set. " + again, false
	}
	if strings.Contains(err.Error(), ": HTTP 5") { // without words in the form of the protocol
		return "the authority has a fault: " + strings.TrimRight(clean(err.Error()), ": "), again, false
	}
	return clean(err.Error()), again, false
}

// explainProblem explains what an authority answered (RFC 8555, section 6.7).
func explainProblem(p acme.Problem) (text, advice string, own bool) {
	detail := p.Detail
	if detail == "" {
		detail = p.Type
	}
	for _, sub := range p.Subproblems {
		detail += "; " + sub.Detail
	}
	text = clean(detail)
	switch p.Type {
	case acme.ProblemTypeRateLimited:
		return text, "The authority limits how much it issues. There is nothing to do but wait. " + again, false
	case acme.ProblemTypeDNS:
		return text, "Check that the name has an A or AAAA record that leads to this server. With several records, each must.", true
	case acme.ProblemTypeConnection:
		return text, "The authority reaches the name, but not this server: check that ports 80 and 443 are open and forwarded to it, also for IPv6 if the name has an AAAA record.", true
	case acme.ProblemTypeUnauthorized, acme.ProblemTypeIncorrectResponse, acme.ProblemTypeTLS:
		return text, "Something else answered under the name: check that its A and AAAA records lead to this server and not through another proxy. For a server that is not reached from outside, set up a DNS provider for the zone.", true
	case acme.ProblemTypeCAA:
		return text, "A CAA record of the domain forbids this authority. Allow it there, or choose another one with GC_ACME_CA.", true
	case acme.ProblemTypeRejectedIdentifier, acme.ProblemTypeUnsupportedIdentifier:
		return text, "The authority does not certify this name. Choose another domain, or set GC_TLS_ISSUER to internal.", true
	case acme.ProblemTypeInvalidContact, acme.ProblemTypeUnsupportedContact:
		return text, "The authority does not accept the e-mail address in GC_ACME_EMAIL.", true
	case acme.ProblemTypeExternalAccountRequired:
		return text, "Set GC_ACME_EAB_KEY_ID and GC_ACME_EAB_KEY to what the authority gave you.", true
	case acme.ProblemTypeUserActionRequired:
		return text, "The authority wants something from the holder of the account; see " + clean(p.Instance) + ".", true
	case acme.ProblemTypeServerInternal:
		return "the authority has a fault: " + text, again, false
	}
	if p.Status >= 500 {
		return fmt.Sprintf("the authority has a fault (%d): %s", p.Status, text), again, false
	}
	return text, again, false
}

// clean makes what others wrote fit for a line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '�' {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "…"
	}
	return s
}
