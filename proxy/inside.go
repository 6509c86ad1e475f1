package proxy

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// insideGate lets in who comes through the tunnel. Others get what the operator
// chose, which need not tell that there is anything here.
type insideGate struct {
	tunnel []netip.Prefix
	others *verdict
}

func newInsideGate(d *draft) (gate, error) {
	b := d.in.Options.Internal
	if b == nil {
		return nil, nil
	}
	const outside = "the client is outside of the tunnel"
	g := insideGate{tunnel: d.snap.tunnel}
	switch b.Action {
	case model.BlockNotFound:
		g.others = bareVerdict(fasthttp.StatusNotFound, outside, "", nil)
	case model.BlockCustom:
		g.others = bareVerdict(fasthttp.StatusNotFound, outside, "Content-Type: text/html; charset=utf-8\r\n", []byte(b.Body))
	case model.BlockRedirect:
		loc, err := locationOf("external_block_redirect_url", b.URL)
		if err != nil {
			return nil, err
		}
		g.others = bareVerdict(fasthttp.StatusFound, outside, loc, nil)
	case model.BlockEmpty:
		g.others = bareVerdict(fasthttp.StatusOK, outside, "", nil)
	default:
		return nil, model.Invalid("external_block_action", "%q is not an answer for outsiders", b.Action)
	}
	return g, nil
}

func (g insideGate) check(v *visit) *verdict {
	if containsAddr(g.tunnel, v.addr) {
		v.note = "the client is inside of the tunnel"
		return nil
	}
	return g.others
}

// locationOf makes a Location field of an absolute URL of field.
func locationOf(field, text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !isVisible(text) {
		return "", model.Invalid(field, "must be an absolute URL, http or https")
	}
	return "Location: " + text + "\r\n", nil
}

// isVisible reports whether s is of visible ASCII characters alone.
func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// aclGate lets in the peers of a list.
type aclGate map[netip.Addr]struct{}

func newACLGate(d *draft) (gate, error) {
	acl := d.in.Options.ACL
	if acl == nil {
		return nil, nil
	}
	g := make(aclGate, len(acl.Addrs))
	for i, a := range acl.Addrs {
		if !a.IsValid() {
			return nil, model.Invalid(fmt.Sprintf("acl_peers[%d]", i), "not an address")
		}
		g[a.Unmap().WithZone("")] = struct{}{}
	}
	return g, nil
}

func (g aclGate) check(v *visit) *verdict {
	if _, ok := g[v.addr]; ok {
		v.note = "the client is a peer of the list"
		return nil
	}
	return notListed
}

var notListed = pageVerdict(fasthttp.StatusForbidden, "the client is not a peer of the list", "")
