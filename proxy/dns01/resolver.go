package dns01

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Times of a Resolver.
const (
	queryTime   = 5 * time.Second // one question
	visibleTime = 2 * time.Minute // until a new record has to be there
	visiblePoll = 2 * time.Second
	maxServers  = 8 // of a zone that are asked
)

// ErrNoName is that a name does not exist, or has no record of the kind.
var ErrNoName = errors.New("there is no such name")

// Resolver asks the DNS as an authority would: not what the tunnel or the files
// of this host say.
type Resolver struct {
	// Servers are those that are asked, as host:port; those of the system if
	// there are none.
	Servers []string
	// AtOnce has all of them asked at the same time, and the first answer counts:
	// for who cannot wait until one is given up. Else the next one is asked when
	// one fails.
	AtOnce bool
}

func (r *Resolver) servers() []string {
	if len(r.Servers) > 0 {
		return r.Servers
	}
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	list := make([]string, 0, len(c.Servers))
	for _, s := range c.Servers {
		list = append(list, net.JoinHostPort(s, c.Port))
	}
	return list
}

// ask puts one question to servers. Its error is ErrNoName where one of them
// answers that there is no such name.
func (r *Resolver) ask(ctx context.Context, servers []string, name string, kind uint16) (*dns.Msg, error) {
	answer, err := (*dns.Msg)(nil), errors.New("there is no resolver to ask")
	if r.AtOnce {
		answer, err = askAtOnce(ctx, servers, name, kind)
	} else {
		for _, server := range servers {
			if answer, err = askOne(ctx, server, name, kind); answered(err) || ctx.Err() != nil {
				break
			}
		}
	}
	if err != nil && !errors.Is(err, ErrNoName) {
		err = fmt.Errorf("look up %s: %w", name, err)
	}
	return answer, err
}

// answered reports whether err, of a question, is an answer.
func answered(err error) bool { return err == nil || errors.Is(err, ErrNoName) }

// askAtOnce returns the first answer of any of servers, or the last error. The
// others are cut then, and have ended when it returns.
func askAtOnce(ctx context.Context, servers []string, name string, kind uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	type result struct {
		answer *dns.Msg
		err    error
	}
	results := make(chan result, len(servers))
	for _, server := range servers {
		asking.Go(func() {
			answer, err := askOne(ctx, server, name, kind)
			results <- result{answer, err}
		})
	}
	last := result{err: errors.New("there is no resolver to ask")}
	for range servers {
		if last = <-results; answered(last.err) {
			break
		}
	}
	return last.answer, last.err
}

// askOne puts one question to one server, over TCP if the answer does not fit
// into a datagram.
func askOne(ctx context.Context, server, name string, kind uint16) (answer *dns.Msg, err error) {
	for _, network := range [...]string{"udp", "tcp"} {
		if answer, err = exchange(ctx, network, server, name, kind); err != nil {
			return nil, err
		}
		if network == "tcp" || !answer.Truncated {
			break
		}
	}
	switch answer.Rcode {
	case dns.RcodeSuccess:
		return answer, nil
	case dns.RcodeNameError:
		return nil, ErrNoName
	}
	return nil, fmt.Errorf("%s answers %s", server, dns.RcodeToString[answer.Rcode])
}

// exchange sends a question and reads what comes back, until ctx ends. The library
// knows the deadline of ctx, but not that it was cancelled.
func exchange(ctx context.Context, network, server, name string, kind uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	m.SetEdns0(1232, false)
	client := dns.Client{Net: network, Timeout: queryTime}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	answer, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	return answer, err
}

// Addrs returns the addresses of a name, ErrNoName if there are none.
func (r *Resolver) Addrs(ctx context.Context, name string) ([]netip.Addr, error) {
	return r.lookUp(ctx, name, dns.TypeA, dns.TypeAAAA)
}

// Addrs4 is Addrs without the addresses of IPv6.
func (r *Resolver) Addrs4(ctx context.Context, name string) ([]netip.Addr, error) {
	return r.lookUp(ctx, name, dns.TypeA)
}

func (r *Resolver) lookUp(ctx context.Context, name string, kinds ...uint16) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var failed error
	for _, kind := range kinds {
		answer, err := r.ask(ctx, r.servers(), name, kind)
		if err != nil {
			failed = err
			continue
		}
		for _, rr := range answer.Answer {
			if rr.Header().Rrtype != kind {
				continue // an alias, or what nobody asked for
			}
			switch rr := rr.(type) {
			case *dns.A:
				if a, ok := netip.AddrFromSlice(rr.A); ok {
					addrs = append(addrs, a.Unmap())
				}
			case *dns.AAAA:
				if a, ok := netip.AddrFromSlice(rr.AAAA); ok {
					addrs = append(addrs, a)
				}
			}
		}
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case failed != nil:
		return nil, failed
	}
	return nil, ErrNoName
}

// CAA is what a zone says of who may certify a name (RFC 8659).
type CAA struct {
	At        string // the name that says so
	Issue     []string
	IssueWild []string // for wildcards; if there is none, Issue holds for them
}

// CAA returns what holds for name: the records of the name, or of the nearest
// one above that has any. It is empty if everybody may.
func (r *Resolver) CAA(ctx context.Context, name string) (CAA, error) {
	for at := strings.TrimPrefix(name, "*."); at != ""; {
		answer, err := r.ask(ctx, r.servers(), at, dns.TypeCAA)
		if err != nil && !errors.Is(err, ErrNoName) {
			return CAA{}, err
		}
		c := CAA{At: at}
		if err == nil {
			for _, rr := range answer.Answer {
				caa, ok := rr.(*dns.CAA)
				if !ok {
					continue
				}
				// What follows a semicolon are parameters for that authority.
				value, _, _ := strings.Cut(caa.Value, ";")
				switch value = strings.ToLower(strings.TrimSpace(value)); strings.ToLower(caa.Tag) {
				case "issue":
					c.Issue = append(c.Issue, value)
				case "issuewild":
					c.IssueWild = append(c.IssueWild, value)
				}
			}
		}
		if len(c.Issue)+len(c.IssueWild) > 0 {
			return c, nil
		}
		_, at, _ = strings.Cut(at, ".")
	}
	return CAA{}, nil
}

// Allows reports whether an authority that goes by one of identities may certify
// name, which may be a wildcard.
func (c CAA) Allows(name string, identities []string) bool {
	list := c.Issue
	if strings.HasPrefix(name, "*.") && len(c.IssueWild) > 0 {
		list = c.IssueWild
	}
	if len(list) == 0 {
		return true
	}
	return slices.ContainsFunc(identities, func(id string) bool { return slices.Contains(list, id) })
}

// WaitFor waits until all servers of the zone answer with the record that p added.
func (r *Resolver) WaitFor(ctx context.Context, p Provider, rec Record) error {
	ctx, cancel := context.WithTimeout(ctx, visibleTime)
	defer cancel()
	servers := r.authoritative(ctx, p, rec.Zone)
	for {
		missing := slices.DeleteFunc(slices.Clone(servers), func(server string) bool { return r.has(ctx, server, rec) })
		if len(servers) > 0 && len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the record %s was put into the zone, but %s does not answer with it", rec.Name, strings.Join(missing, ", "))
		case <-time.After(visiblePoll):
		}
	}
}

func (r *Resolver) has(ctx context.Context, server string, rec Record) bool {
	answer, err := r.ask(ctx, []string{server}, rec.Name, dns.TypeTXT)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(answer.Answer, func(rr dns.RR) bool {
		txt, ok := rr.(*dns.TXT)
		return ok && strings.Join(txt.Txt, "") == rec.Value
	})
}

// authoritative lists the servers of a zone. If it has none that can be found, as
// behind a firewall, that is the one that was told of the record, or the resolvers.
func (r *Resolver) authoritative(ctx context.Context, p Provider, zone string) []string {
	unknown := r.servers()
	if u, ok := p.(*updater); ok {
		unknown = []string{u.server}
	}
	answer, err := r.ask(ctx, r.servers(), zone, dns.TypeNS)
	if err != nil {
		return unknown
	}
	var list []string
	for _, rr := range answer.Answer {
		ns, ok := rr.(*dns.NS)
		if !ok || len(list) == maxServers {
			continue
		}
		addrs, err := r.Addrs(ctx, strings.TrimSuffix(ns.Ns, "."))
		if err != nil {
			continue
		}
		// One address of each is enough, and one of IPv4 is reached from more hosts.
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
		list = append(list, netip.AddrPortFrom(addrs[0], 53).String())
	}
	if len(list) == 0 {
		return unknown
	}
	return list
}
