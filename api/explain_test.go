package api

import (
	"net/netip"
	"strings"
	"testing"

	"gatecontrol/model"
)

func TestExplainRoute(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	var asked model.ExplainRequest
	f.explain = func(q model.ExplainRequest) (*model.Explanation, error) {
		asked = q
		if q.Method == "BAD METHOD" {
			return nil, model.Invalid("method", "%q is not a method", q.Method)
		}
		return &model.Explanation{
			Route: 7, Host: "a.test", Steps: []model.ExplainedStep{{Name: "external", Passes: true, Reason: "inside"}, {Name: "peer_acl", Status: 403, Reason: "not listed"}},
			Refused: "peer_acl", Status: 403, Head: "GET / HTTP/1.1\r\n\r\n",
			Targets: []model.ExplainedTarget{{Addr: netip.MustParseAddrPort("10.8.0.2:80"), Peer: "nas"}},
		}, nil
	}
	body := admin.do("POST", "/api/v1/routes/explain",
		`{"url":" https://a.test/x ","address":"10.8.0.3","method":"PUT","headers":[{"name":"Accept","value":"text/html"}],"client_certificate":"PEM","client_certificate_valid":1}`).Body.String()
	const want = `{"ok":true,"route_id":7,"host":"a.test","admin":false,"steps":[{"name":"external","verdict":"pass","reason":"inside"},` +
		`{"name":"peer_acl","verdict":"refuse","status":403,"reason":"not listed"}],"refused_by":"peer_acl","status":403,` +
		`"targets":[{"address":"10.8.0.2:80","peer":"nas","tls":false}],"head":"GET / HTTP/1.1\r\n\r\n"}`
	if strings.TrimSpace(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	if asked.URL != "https://a.test/x" || asked.Method != "PUT" || asked.Address != netip.MustParseAddr("10.8.0.3") || len(asked.Headers) != 1 ||
		asked.ClientCertificate != "PEM" || !asked.HasCertificate {
		t.Errorf("asked %+v", asked)
	}
	for body, field := range map[string]string{
		`{"address":"10.8.0.3"}`:                                                 "url",
		`{"url":"https://a.test/"}`:                                              "address",
		`{"url":"https://a.test/","address":"nas"}`:                              "address",
		`{"url":"https://a.test/","address":"fe80::1%eth0"}`:                     "address",
		`{"url":"https://a.test/","address":"10.8.0.3","headers":"Accept"}`:      "headers",
		`{"url":"https://a.test/","address":"10.8.0.3","method":"BAD METHOD"}`:   "method",
		`{"url":{"x":1},"address":"10.8.0.3","method":"GET","headers":[{}]}`:     "url",
		`{"url":"https://a.test/","address":["10.8.0.3"],"headers":[{"a":"b"}]}`: "address",
	} {
		w := admin.do("POST", "/api/v1/routes/explain", body)
		if w.Code != 400 || !strings.Contains(w.Body.String(), `"fields":{"`+field+`":`) {
			t.Errorf("%s: %d %s, want the field %s", body, w.Code, w.Body, field)
		}
	}
}
