package dns01

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// updater sends dynamic updates (RFC 2136) that are signed (RFC 8945).
type updater struct {
	server            string
	key, algo, secret string
}

func newUpdater(settings map[string]string) *updater {
	server := settings["server"]
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(server, "53")
	}
	return &updater{
		server: server, key: dns.CanonicalName(settings["key_name"]),
		algo: dns.Fqdn(settings["key_algorithm"]), secret: settings["key_secret"],
	}
}

func (u *updater) Add(ctx context.Context, r Record) error {
	return u.send(ctx, r, func(m *dns.Msg, rr dns.RR) { m.Insert([]dns.RR{rr}) })
}

func (u *updater) Remove(ctx context.Context, r Record) error {
	return u.send(ctx, r, func(m *dns.Msg, rr dns.RR) { m.Remove([]dns.RR{rr}) })
}

func (u *updater) send(ctx context.Context, r Record, change func(*dns.Msg, dns.RR)) error {
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(r.Zone))
	change(m, &dns.TXT{
		Hdr: dns.RR_Header{Name: dns.Fqdn(r.Name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl},
		Txt: []string{r.Value},
	})
	m.SetTsig(u.key, u.algo, 300, time.Now().Unix())
	// Over TCP: an answer that is forged or lost would cost an attempt.
	client := dns.Client{Net: "tcp", Timeout: 10 * time.Second, TsigSecret: map[string]string{u.key: u.secret}}
	answer, _, err := client.ExchangeContext(ctx, m, u.server)
	if err != nil {
		return fmt.Errorf("the DNS server %s cannot be told: %w", u.server, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("the DNS server %s refuses the change of %s: %s", u.server, r.Zone, dns.RcodeToString[answer.Rcode])
	}
	return nil
}
