package acme

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Zone is a DNS server that answers every name with 127.0.0.1 and takes
// updates that are signed with its key.
type Zone struct {
	Addr string // host:port, UDP and TCP

	mu      sync.Mutex
	txt     map[string][]string // by name, lower case
	updates int
	refused int
}

// The TSIG key that updates are signed with, as settings spell it.
const (
	KeyName = "key.gate"
	Secret  = "c2VjcmV0IG9mIHRoZSB0ZXN0"
)

const keyName = KeyName + "."

// NewZone starts one, which ends with t.
func NewZone(t testing.TB) *Zone {
	t.Helper()
	z := &Zone{txt: make(map[string][]string)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	z.Addr = ln.Addr().String()
	for _, s := range []*dns.Server{
		{Listener: ln, Handler: z, TsigSecret: map[string]string{keyName: Secret}, MsgAcceptFunc: acceptUpdates},
		{PacketConn: pc, Handler: z},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return z
}

// acceptUpdates also takes what the default refuses: updates.
func acceptUpdates(h dns.Header) dns.MsgAcceptAction {
	if h.Bits>>11&0xf == dns.OpcodeUpdate {
		return dns.MsgAccept
	}
	return dns.DefaultMsgAcceptFunc(h)
}

// ServeDNS answers one question.
func (z *Zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	z.mu.Lock()
	if q.Opcode == dns.OpcodeUpdate {
		z.update(w, q, a)
	} else {
		z.answer(q, a)
	}
	z.mu.Unlock()
	_ = w.WriteMsg(a)
}

func (z *Zone) update(w dns.ResponseWriter, q, a *dns.Msg) {
	if q.IsTsig() == nil || w.TsigStatus() != nil {
		z.refused++
		a.Rcode = dns.RcodeNotAuth
		return
	}
	z.updates++
	for _, rr := range q.Ns {
		txt, ok := rr.(*dns.TXT)
		if !ok {
			continue
		}
		name, value := strings.ToLower(txt.Hdr.Name), strings.Join(txt.Txt, "")
		var rest []string
		for _, v := range z.txt[name] {
			if v != value {
				rest = append(rest, v)
			}
		}
		if txt.Hdr.Class == dns.ClassINET {
			rest = append(rest, value)
		}
		z.txt[name] = rest
	}
	a.SetTsig(keyName, dns.HmacSHA256, 300, time.Now().Unix())
}

func (z *Zone) answer(q, a *dns.Msg) {
	name := q.Question[0].Name
	hdr := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
	switch q.Question[0].Qtype {
	case dns.TypeA:
		a.Answer = append(a.Answer, &dns.A{Hdr: hdr, A: net.IPv4(127, 0, 0, 1)})
	case dns.TypeTXT:
		for _, v := range z.txt[strings.ToLower(name)] {
			a.Answer = append(a.Answer, &dns.TXT{Hdr: hdr, Txt: []string{v}})
		}
	}
}

// Updates are how many updates were taken and refused, and what is left of their
// records.
func (z *Zone) Updates() (taken, refused int, left []string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for name, values := range z.txt {
		if len(values) > 0 {
			left = append(left, name)
		}
	}
	return z.updates, z.refused, left
}
