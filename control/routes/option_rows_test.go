package routes

import (
	"crypto/rsa"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func optionRows(t testing.TB) []optionRow {
	const rules = `[{"type":"cidr","value":"185.10.20.7/24"},{"type":"country","value":"de"},{"type":"ip","value":"::ffff:192.0.2.1"}]`
	wantRules := []model.IPRule{{Type: "cidr", Value: "185.10.20.0/24"}, {Type: "country", Value: "DE"}, {Type: "ip", Value: "192.0.2.1"}}
	const headers = `{"request":[{"name":"X-A","value":"{not} a placeholder"}],"response":[{"name":"X-B","value":" b "}]}`
	wantHeaders := &model.Headers{
		Request: []model.HeaderField{{Name: "X-A", Value: "{not} a placeholder"}}, Response: []model.HeaderField{{Name: "X-B", Value: "b"}},
	}
	ca := authority(t, true)
	pemText := func(s string) string { return fmt.Sprintf(`"client_tls_ca":%s`, asText(s)) }
	many := func(n int, element string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + "]"
	}
	header := func(name, value string) string {
		return fmt.Sprintf(`"custom_headers":{"request":[{"name":%s,"value":%s}]}`, asText(name), asText(value))
	}
	rows := []optionRow{
		{"compress_enabled", []step{
			{`"compress_enabled":true`, func(w web) { w.Compress = true }},
			{`"compress_enabled":null`, nil},
			{`"compress_enabled":"0"`, func(w web) { w.Compress = false }},
		}, []bad{{`"compress_enabled":"yes"`, "compress_enabled"}, {`"compress_enabled":[]`, "compress_enabled"}}},

		{"custom_headers", []step{
			{`"custom_headers":` + headers, func(w web) { w.Headers = wantHeaders }},
			{`"custom_headers":` + asText(`{"request":[{"name":"Host","value":"other.example.com:8080"}]}`), func(w web) {
				w.Headers = &model.Headers{Request: []model.HeaderField{{Name: "Host", Value: "other.example.com:8080"}}, Response: []model.HeaderField{}}
			}},
			{`"custom_headers":null`, func(w web) { w.Headers = nil }},
			{`"custom_headers":` + asText(headers), func(w web) { w.Headers = wantHeaders }},
			{`"custom_headers":{"request":[],"response":[]}`, func(w web) { w.Headers = nil }},
		}, []bad{
			{`"custom_headers":[]`, "custom_headers"}, {`"custom_headers":"{"`, "custom_headers"}, {`"custom_headers":7`, "custom_headers"},
			{`"custom_headers":{"request":{}}`, "custom_headers.request"}, {`"custom_headers":{"request":["a"]}`, "custom_headers.request[0]"},
			{`"custom_headers":{"response":[{"name":"A","value":"b"},{"name":"B"}]}`, "custom_headers.response[1]"},
			{header("", "a"), "custom_headers.request[0]"}, {header("a b", "a"), "custom_headers.request[0]"}, {header("a:", "a"), "custom_headers.request[0]"},
			{header("ä", "a"), "custom_headers.request[0]"}, {header("a\r\nb", "a"), "custom_headers.request[0]"},
			{header("A", "a\r\nB: c"), "custom_headers.request[0]"}, {header("A", "a\x00"), "custom_headers.request[0]"}, {header("A", "a\x7f"), "custom_headers.request[0]"},
			{header("A", ""), "custom_headers.request[0]"}, {header("A", "  "), "custom_headers.request[0]"},
			{header(strings.Repeat("a", 257), "a"), "custom_headers.request[0]"}, {header("A", strings.Repeat("a", 4097)), "custom_headers.request[0]"},
			{header("Connection", "close"), "custom_headers.request[0]"}, {header("transfer-encoding", "chunked"), "custom_headers.request[0]"},
			{header("Content_Length", "5"), "custom_headers.request[0]"}, {header("Proxy-Authorization", "x"), "custom_headers.request[0]"},
			{header("X-Forwarded-For", "1.2.3.4"), "custom_headers.request[0]"}, {header("x_gateway_target", "a"), "custom_headers.request[0]"},
			{header("X-Real-IP", "1.2.3.4"), "custom_headers.request[0]"}, {header("Expect", "100-continue"), "custom_headers.request[0]"},
			{header("Host", "user@example.com"), "custom_headers.request[0]"}, {header("Upgrade", "h2c"), "custom_headers.request[0]"},
			{`"custom_headers":{"request":[{"name":"A","value":"b"},{"name":"a","value":"c"}]}`, "custom_headers.request"},
			{`"custom_headers":{"response":` + many(65, `{"name":"A","value":"b"}`) + `}`, "custom_headers.response"},
			{`"custom_headers":{"response":` + many(1001, `{"name":"A","value":"b"}`) + `}`, "custom_headers.response"},
		}},

		{"backends", []step{
			{`"backends":[{"peer_id":1,"port":8080},{"peer_id":"3","port":"81","weight":"5"}]`, func(w web) {
				w.Backends = []model.Backend{{Peer: 1, Port: 8080, Weight: 1}, {Peer: 3, Port: 81, Weight: 5}}
			}},
			{`"backends":` + asText(`[{"peer_id":2,"port":80,"weight":null}]`), func(w web) { w.Backends = []model.Backend{{Peer: 2, Port: 80, Weight: 1}} }},
			{`"backends":null`, func(w web) { w.Backends = nil }},
		}, []bad{
			{`"backends":{}`, "backends"}, {`"backends":"[{"`, "backends"}, {`"backends":[1]`, "backends[0]"},
			{`"backends":[{"port":80}]`, "backends[0]"}, {`"backends":[{"peer_id":1,"port":80},{"peer_id":9,"port":80}]`, "backends[1]"},
			{`"backends":[{"peer_id":1}]`, "backends[0]"}, {`"backends":[{"peer_id":1,"port":0}]`, "backends[0]"}, {`"backends":[{"peer_id":1,"port":65536}]`, "backends[0]"},
			{`"backends":[{"peer_id":1,"port":80,"weight":0}]`, "backends[0]"}, {`"backends":[{"peer_id":1,"port":80,"weight":1001}]`, "backends[0]"},
			{`"backends":[{"peer_id":1,"port":80},{"peer_id":1,"port":80,"weight":2}]`, "backends[1]"},
			{`"backends":` + many(21, `{"peer_id":1,"port":80}`), "backends"},
		}},

		{"sticky_enabled", []step{
			{`"sticky_enabled":1,"sticky_cookie_name":"sid-1","sticky_cookie_ttl":"14400"`, func(w web) { w.Sticky = model.Sticky{Enabled: true, Cookie: "sid-1", TTL: 4 * time.Hour} }},
			{`"sticky_cookie_ttl":604800`, func(w web) { w.Sticky.TTL = 168 * time.Hour }},
			{`"sticky_cookie_name":"no good","sticky_cookie_ttl":null`, func(w web) { w.Sticky.Cookie = "gc_sticky" }},
			{`"sticky_enabled":false,"sticky_cookie_name":null`, func(w web) { w.Sticky.Enabled = false }},
		}, []bad{
			{`"sticky_cookie_ttl":0`, "sticky_cookie_ttl"}, {`"sticky_cookie_ttl":"1h"`, "sticky_cookie_ttl"}, {`"sticky_cookie_ttl":99999999`, "sticky_cookie_ttl"},
			{`"sticky_cookie_name":{}`, "sticky_cookie_name"},
		}},

		{"basic_auth_enabled", []step{
			{`"basic_auth_enabled":true,"basic_auth_user":"a.b@c-d_e","basic_auth_password":"secret12"`, func(w web) { w.BasicAuth = model.BasicAuth{Enabled: true, User: "a.b@c-d_e"} }},
			{`"basic_auth_user":"other","basic_auth_password":""`, func(w web) { w.BasicAuth.User = "other" }},
			{`"basic_auth_password":null`, nil},
			{`"basic_auth_enabled":0`, func(w web) { w.BasicAuth = model.BasicAuth{} }},
			{`"basic_auth_user":"u","basic_auth_password":"` + strings.Repeat("ä", 128) + `"`, func(w web) { w.BasicAuth = model.BasicAuth{Enabled: true, User: "u"} }},
			{`"basic_auth_enabled":"0","basic_auth_user":"u","basic_auth_password":"secret12"`, func(w web) { w.BasicAuth = model.BasicAuth{} }},
			{`"basic_auth_user":"","basic_auth_password":""`, nil},
		}, []bad{
			{`"basic_auth_enabled":true`, "basic_auth_user"}, {`"basic_auth_enabled":true,"basic_auth_user":"u"`, "basic_auth_password"},
			{`"basic_auth_enabled":true,"basic_auth_password":"secret12"`, "basic_auth_user"}, {`"basic_auth_password":"secret12"`, "basic_auth_user"},
			{`"basic_auth_user":"u"`, "basic_auth_password"},
			{`"basic_auth_user":"u:v","basic_auth_password":"secret12"`, "basic_auth_user"}, {`"basic_auth_user":"` + strings.Repeat("u", 65) + `","basic_auth_password":"secret12"`, "basic_auth_user"},
			{`"basic_auth_user":"u","basic_auth_password":"seven77"`, "basic_auth_password"}, {`"basic_auth_user":"u","basic_auth_password":"` + strings.Repeat("p", 129) + `"`, "basic_auth_password"},
			{`"basic_auth_user":"u","basic_auth_password":"secret\u0000 12"`, "basic_auth_password"},
		}},

		{"ip_filter_enabled", []step{
			{`"ip_filter_enabled":true,"ip_filter_mode":"blacklist","ip_filter_rules":` + rules, func(w web) { w.IPFilter = model.IPFilter{Enabled: true, Mode: "blacklist", Rules: wantRules} }},
			{`"ip_filter_mode":null,"ip_filter_rules":` + asText(`[{"type":"cidr","value":"2001:db8::1/32"}]`), func(w web) {
				w.IPFilter.Mode, w.IPFilter.Rules = "whitelist", []model.IPRule{{Type: "cidr", Value: "2001:db8::/32"}}
			}},
			{`"ip_filter_rules":"null"`, func(w web) { w.IPFilter.Rules = nil }},
			{`"ip_filter_enabled":false,"ip_filter_rules":` + asText(rules), func(w web) { w.IPFilter.Enabled, w.IPFilter.Rules = false, wantRules }},
			{`"ip_filter_rules":null`, func(w web) { w.IPFilter.Rules = nil }},
		}, []bad{
			{`"ip_filter_mode":"greylist"`, "ip_filter_mode"}, {`"ip_filter_mode":""`, "ip_filter_mode"}, {`"ip_filter_rules":"x"`, "ip_filter_rules"}, {`"ip_filter_rules":{"type":"ip"}`, "ip_filter_rules"},
			{`"ip_filter_rules":[{"type":"ip","value":"192.0.2.1"},{"type":"ip","value":"192.0.2.1"},{"type":"ip","value":"192.0.2.1"},{"type":"ip","value":"192.0.2"}]`, "ip_filter_rules[3]"},
			{`"ip_filter_rules":[{"type":"ip","value":"fe80::1%eth0"}]`, "ip_filter_rules[0]"}, {`"ip_filter_rules":[{"type":"ip","value":"192.0.2.0/24"}]`, "ip_filter_rules[0]"},
			{`"ip_filter_rules":[{"type":"cidr","value":"192.0.2.0"}]`, "ip_filter_rules[0]"}, {`"ip_filter_rules":[{"type":"cidr","value":"192.0.2.0/33"}]`, "ip_filter_rules[0]"},
			{`"ip_filter_rules":[{"type":"cidr","value":"::ffff:192.0.2.0/120"}]`, "ip_filter_rules[0]"},
			{`"ip_filter_rules":[{"type":"country","value":"UK"}]`, "ip_filter_rules[0]"}, {`"ip_filter_rules":[{"type":"country","value":"E E"}]`, "ip_filter_rules[0]"},
			{`"ip_filter_rules":[{"type":"asn","value":"1"}]`, "ip_filter_rules[0]"}, {`"ip_filter_rules":[{}]`, "ip_filter_rules[0]"}, {`"ip_filter_rules":[null]`, "ip_filter_rules[0]"},
			{`"ip_filter_rules":` + many(501, `{"type":"country","value":"DE"}`), "ip_filter_rules"},
		}},

		{"acl_enabled", []step{
			{`"acl_enabled":true,"acl_peer_ids":[1,"2",1]`, func(w web) { w.ACL = model.ACL{Enabled: true, Peers: []model.PeerID{1, 2}} }},
			{`"acl_peers":"[3]"`, func(w web) { w.ACL.Peers = []model.PeerID{3} }},
			{`"acl_peers":[1],"acl_peer_ids":[1]`, func(w web) { w.ACL.Peers = []model.PeerID{1} }},
			{`"acl_peers":null`, func(w web) { w.ACL.Peers = nil }},
			{`"acl_enabled":false,"acl_peers":[2]`, func(w web) { w.ACL = model.ACL{Peers: []model.PeerID{2}} }},
		}, []bad{
			{`"acl_enabled":true,"acl_peers":[1,9]`, "acl_peers[1]"}, {`"acl_enabled":true,"acl_peer_ids":[0]`, "acl_peer_ids[0]"}, {`"acl_peers":["x"]`, "acl_peers"},
			{`"acl_peers":{}`, "acl_peers"}, {`"acl_peers":[1],"acl_peer_ids":[2]`, "acl_peer_ids"}, {`"acl_enabled":1,"acl_peers":` + many(501, "1"), "acl_peers"},
		}},

		{"external_enabled", []step{
			{`"external_enabled":false,"external_block_action":"custom","external_block_body":"<p>no"`, func(w web) {
				w.External, w.Block = false, model.BlockReply{Action: "custom", Body: "<p>no"}
			}},
			{`"external_block_action":"redirect","external_block_redirect_url":"https://example.org/x?y"`, func(w web) { w.Block.Action, w.Block.URL = "redirect", "https://example.org/x?y" }},
			{`"external_enabled":1`, func(w web) { w.External = true }},
			{`"external_block_action":null,"external_block_body":null,"external_block_redirect_url":null`, func(w web) { w.Block = model.BlockReply{Action: "inherit"} }},
		}, []bad{
			{`"external_block_action":"teapot"`, "external_block_action"}, {`"external_block_action":"custom"`, "external_block_body"}, {`"external_block_action":"custom","external_block_body":" \n"`, "external_block_body"},
			{`"external_block_body":"` + strings.Repeat("a", 16385) + `"`, "external_block_body"}, {`"external_block_action":"redirect"`, "external_block_redirect_url"},
			{`"external_block_redirect_url":"/login"`, "external_block_redirect_url"}, {`"external_block_redirect_url":"javascript:alert(1)"`, "external_block_redirect_url"},
			{`"external_block_redirect_url":"https://"`, "external_block_redirect_url"}, {`"external_block_redirect_url":"https://a@example.org/"`, "external_block_redirect_url"},
			{`"external_block_redirect_url":"https://example.org/\r\nSet-Cookie: a=b"`, "external_block_redirect_url"},
			{`"external_block_action":"redirect","external_block_redirect_url":"https://A.example.com.:8443/x"`, "external_block_redirect_url"},
		}},

		{"rate_limit_enabled", []step{
			{`"rate_limit_enabled":true,"rate_limit_requests":"5","rate_limit_window":"1s"`, func(w web) { w.RateLimit = model.RateLimit{Enabled: true, Requests: 5, Window: time.Second} }},
			{`"rate_limit_window":"5m"`, func(w web) { w.RateLimit.Window = 5 * time.Minute }},
			{`"rate_limit_window":null,"rate_limit_requests":null`, nil},
			{`"rate_limit_requests":100000,"rate_limit_window":"1h"`, func(w web) { w.RateLimit.Requests, w.RateLimit.Window = 100_000, time.Hour }},
			{`"rate_limit_enabled":0`, func(w web) { w.RateLimit.Enabled = false }},
		}, []bad{
			{`"rate_limit_requests":0`, "rate_limit_requests"}, {`"rate_limit_requests":100001`, "rate_limit_requests"}, {`"rate_limit_requests":1.5`, "rate_limit_requests"},
			{`"rate_limit_window":"2m"`, "rate_limit_window"}, {`"rate_limit_window":60`, "rate_limit_window"},
		}},

		{"retry_enabled", []step{
			{`"retry_enabled":true,"retry_count":5,"retry_status_codes":"500, 502,abc,99,600,502"`, func(w web) { w.Retry = model.Retry{Enabled: true, Count: 5, Statuses: []int{500, 502}} }},
			{`"retry_match_status":[503,"504"]`, func(w web) { w.Retry.Statuses = []int{503, 504} }},
			{`"retry_match_status":"502","retry_status_codes":[502]`, func(w web) { w.Retry.Statuses = []int{502} }},
			{`"retry_status_codes":"[429]"`, func(w web) { w.Retry.Statuses = []int{429} }},
			{`"retry_status_codes":null,"retry_count":null`, nil},
			{`"retry_status_codes":408`, func(w web) { w.Retry.Statuses = []int{408} }},
			{`"retry_status_codes":""`, func(w web) { w.Retry.Statuses = []int{} }},
			{`"retry_enabled":false`, func(w web) { w.Retry.Enabled = false }},
		}, []bad{
			{`"retry_count":0`, "retry_count"}, {`"retry_count":11`, "retry_count"}, {`"retry_status_codes":{}`, "retry_status_codes"}, {`"retry_match_status":true`, "retry_match_status"},
			{`"retry_match_status":"[1"`, "retry_match_status"}, {`"retry_match_status":"502","retry_status_codes":"503"`, "retry_match_status"},
		}},

		{"circuit_breaker_enabled", []step{
			{`"circuit_breaker_enabled":true,"circuit_breaker_threshold":2,"circuit_breaker_timeout":"3600"`, func(w web) {
				w.Breaker.Enabled, w.Breaker.Threshold, w.Breaker.Timeout = true, 2, time.Hour
			}},
			{`"circuit_breaker_threshold":100,"circuit_breaker_status":"open","cb_failure_count":7`, func(w web) { w.Breaker.Threshold = 100 }},
			{`"circuit_breaker_enabled":0`, func(w web) { w.Breaker.Enabled = false }},
		}, []bad{
			{`"circuit_breaker_threshold":0`, "circuit_breaker_threshold"}, {`"circuit_breaker_threshold":101`, "circuit_breaker_threshold"},
			{`"circuit_breaker_timeout":4`, "circuit_breaker_timeout"}, {`"circuit_breaker_timeout":3601`, "circuit_breaker_timeout"},
		}},

		{"mirror_enabled", []step{
			{`"mirror_enabled":1,"mirror_targets":[{"peer_id":1,"port":9000},{"peer_id":2,"port":9000}]`, func(w web) {
				w.Mirror = model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: 1, Port: 9000}, {Peer: 2, Port: 9000}}}
			}},
			{`"mirror_targets":` + asText(`[{"peer_id":"3","port":"1"}]`), func(w web) { w.Mirror.Targets = []model.MirrorTarget{{Peer: 3, Port: 1}} }},
			{`"mirror_enabled":0`, func(w web) { w.Mirror.Enabled = false }},
			{`"mirror_targets":null`, func(w web) { w.Mirror.Targets = nil }},
		}, []bad{
			{`"mirror_enabled":true`, "mirror_targets"}, {`"mirror_enabled":true,"mirror_targets":[]`, "mirror_targets"}, {`"mirror_targets":[{"peer_id":1}]`, "mirror_targets[0]"},
			{`"mirror_targets":[{"port":1}]`, "mirror_targets[0]"}, {`"mirror_targets":[{"peer_id":9,"port":1}]`, "mirror_targets[0]"}, {`"mirror_targets":[{"peer_id":1,"port":65536}]`, "mirror_targets[0]"},
			{`"mirror_targets":` + many(6, `{"peer_id":1,"port":1}`), "mirror_targets"}, {`"mirror_targets":7`, "mirror_targets"},
			{`"mirror_enabled":true,"mirror_targets":[{"peer_id":1,"port":1},{"peer_id":1,"port":1}]`, "mirror_targets[1]"},
			{`"mirror_enabled":true,"mirror_targets":[{"peer_id":1,"port":8080}],"peer_id":1`, "mirror_targets[0]"},
			{`"mirror_enabled":true,"mirror_targets":[{"peer_id":2,"port":5}],"paths":[{"prefix":"/a","peer_id":2,"port":5}]`, "mirror_targets[0]"},
			{`"mirror_enabled":true,"mirror_targets":[{"peer_id":1,"port":5}],"peer_id":1,"paths":[{"prefix":"/a","port":5}]`, "mirror_targets[0]"},
			{`"mirror_enabled":true,"mirror_targets":[{"peer_id":2,"port":5}],"backends":[{"peer_id":1,"port":5},{"peer_id":2,"port":5}]`, "mirror_targets[0]"},
		}},

		{"debug_enabled", []step{
			{`"debug_enabled":"1"`, func(w web) { w.Trace = true }},
			{`"debug_enabled":0`, func(w web) { w.Trace = false }},
		}, []bad{{`"debug_enabled":{}`, "debug_enabled"}}},

		{"bot_blocker_enabled", []step{
			{`"bot_blocker_enabled":true,"bot_blocker_mode":"redirect","bot_blocker_config":{"url":"http://example.org"}`, func(w web) { w.Bots = model.BotBlocker{Enabled: true, Mode: "redirect", URL: "http://example.org"} }},
			{`"bot_blocker_mode":"custom","bot_blocker_config":` + asText(`{"message":"go","status_code":"410"}`), func(w web) {
				w.Bots = model.BotBlocker{Enabled: true, Mode: "custom", Message: "go", Status: 410}
			}},
			{`"bot_blocker_config":{}`, func(w web) { w.Bots.Message, w.Bots.Status = "", 403 }},
			{`"bot_blocker_mode":"tarpit","bot_blocker_config":null`, func(w web) { w.Bots = model.BotBlocker{Enabled: true, Mode: "tarpit"} }},
			{`"bot_blocker_mode":"drop"`, func(w web) { w.Bots.Mode = "drop" }},
			{`"bot_blocker_mode":"garbage","bot_blocker_config":"null"`, func(w web) { w.Bots.Mode = "garbage" }},
			{`"bot_blocker_enabled":false,"bot_blocker_mode":null`, func(w web) { w.Bots = model.BotBlocker{Mode: "block"} }},
		}, []bad{
			{`"bot_blocker_mode":"shout"`, "bot_blocker_mode"}, {`"bot_blocker_enabled":true,"bot_blocker_mode":"redirect"`, "bot_blocker_config.url"},
			{`"bot_blocker_config":{"url":"ftp://example.org"}`, "bot_blocker_config.url"}, {`"bot_blocker_mode":"redirect","bot_blocker_config":{"url":"https://a.example.com/"}`, "bot_blocker_config.url"},
			{`"bot_blocker_config":{"status_code":600}`, "bot_blocker_config.status_code"}, {`"bot_blocker_config":{"status_code":101}`, "bot_blocker_config.status_code"},
			{`"bot_blocker_config":{"message":"` + strings.Repeat("ä", 501) + `"}`, "bot_blocker_config.message"}, {`"bot_blocker_config":[]`, "bot_blocker_config"}, {`"bot_blocker_config":"x"`, "bot_blocker_config"},
		}},

		{"branding", []step{
			{`"branding_title":"Mine","branding_text":"Hello","branding_color":"#369","branding_bg":"linear-gradient(90deg, #fff 10%, rgb(1,2,3))"`, func(w web) {
				w.Branding = model.Branding{Title: "Mine", Text: "Hello", Color: "#369", Background: "linear-gradient(90deg, #fff 10%, rgb(1,2,3))"}
			}},
			{`"branding_color":"hsla(1, 2%, 3%, .5)","branding_bg":"rebeccapurple"`, func(w web) {
				w.Branding.Color, w.Branding.Background = "hsla(1, 2%, 3%, .5)", "rebeccapurple"
			}},
			{`"branding_title":"","branding_text":null,"branding_color":null,"branding_bg":""`, func(w web) { w.Branding = model.Branding{} }},
		}, []bad{
			{`"branding_title":"` + strings.Repeat("a", 256) + `"`, "branding_title"}, {`"branding_text":"` + strings.Repeat("a", 2001) + `"`, "branding_text"},
			{`"branding_color":"#12"`, "branding_color"}, {`"branding_color":"red;}"`, "branding_color"}, {`"branding_color":"url(x)"`, "branding_color"}, {`"branding_color":"red\n"`, "branding_color"},
			{`"branding_bg":"url(https://example.org/x.png)"`, "branding_bg"}, {`"branding_bg":"linear-gradient(URL(x))"`, "branding_bg"}, {`"branding_bg":"linear-gradient(` + strings.Repeat("a", 200) + `)"`, "branding_bg"},
		}},

		{"user_ids", []step{
			{`"user_ids":[1,"2"]`, func(w web) { w.Users = []int64{1, 2} }},
			{`"user_ids":"[3]"`, func(w web) { w.Users = []int64{3} }},
			{`"user_ids":[]`, func(w web) { w.Users = nil }},
			{`"user_ids":[4]`, func(w web) { w.Users = []int64{4} }},
			{`"user_ids":null`, func(w web) { w.Users = nil }},
		}, []bad{{`"user_ids":[0]`, "user_ids[0]"}, {`"user_ids":"anna"`, "user_ids"}, {`"user_ids":{}`, "user_ids"}}},

		{"paths", []step{
			{`"paths":[{"prefix":"/api/","strip":1,"peer_id":3,"port":"81"},{"prefix":"/old","redirect":"/new"},{"prefix":"/a%20b","port":82}]`, func(w web) {
				w.Paths = []model.Path{{Prefix: "/api", Strip: true, Peer: 3, Port: 81}, {Prefix: "/old", Redirect: "/new", Status: 302}, {Prefix: "/a%20b", Port: 82}}
			}},
			{`"paths":` + asText(`[{"prefix":"/","redirect":"https://example.org/","status":308}]`), func(w web) {
				w.Paths = []model.Path{{Prefix: "/", Redirect: "https://example.org/", Status: 308}}
			}},
			{`"paths":null`, func(w web) { w.Paths = nil }},
		}, []bad{
			{`"paths":{}`, "paths"}, {`"paths":[{}]`, "paths[0]"}, {`"paths":[{"prefix":"api","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/a//b","port":1}]`, "paths[0]"},
			{`"paths":[{"prefix":"/a/../b","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/%2e%2e/b","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/%61","port":1}]`, "paths[0]"},
			{`"paths":[{"prefix":"/a?b","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/a\\b","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/a b","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/%zz","port":1}]`, "paths[0]"},
			{`"paths":[{"prefix":"/route-auth/x","port":1}]`, "paths[0]"}, {`"paths":[{"prefix":"/a"}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","port":70000}]`, "paths[0]"},
			{`"paths":[{"prefix":"/a","port":1,"peer_id":9}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","port":1,"redirect":"/b"}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","port":1,"status":302}]`, "paths[0]"},
			{`"paths":[{"prefix":"/a","redirect":"/b","status":200}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","redirect":"//example.org"}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","redirect":"/\\example.org"}]`, "paths[0]"},
			{`"paths":[{"prefix":"/a","redirect":"ftp://example.org"}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","redirect":"/a/b"}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","redirect":"https://a.example.com/a"}]`, "paths[0]"},
			{`"paths":[{"prefix":"/","redirect":"/x"}]`, "paths[0]"}, {`"paths":[{"prefix":"/a","port":1},{"prefix":"/a/","port":2}]`, "paths[1]"}, {`"paths":` + many(51, `{"prefix":"/a","port":1}`), "paths"},
			{`"paths":[{"prefix":"/a","port":3000}]`, "paths[0]"}, // of this host, where the route leads
		}},

		{"client_tls_enabled", []step{
			{`"client_tls_enabled":true,` + pemText(ca), func(w web) { w.ClientTLS = model.ClientTLS{Enabled: true, CA: ca} }},
			{`"client_tls_enabled":false`, func(w web) { w.ClientTLS.Enabled = false }},
			{`"client_tls_ca":null`, func(w web) { w.ClientTLS.CA = "" }},
		}, []bad{
			{`"client_tls_enabled":true`, "client_tls_ca"}, {`"client_tls_ca":"x"`, "client_tls_ca"}, {pemText(authority(t, false)), "client_tls_ca"},
			{pemText(ca + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "client_tls_ca"}, {pemText(strings.Repeat(ca, 17)), "client_tls_ca"},
			{pemText("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "client_tls_ca"},
			{pemText(authorityOf(t, true, &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 8192, 1), E: 65537})), "client_tls_ca"}, // each handshake would take long
		}},
	}
	return rows
}
