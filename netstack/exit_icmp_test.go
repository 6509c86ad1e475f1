//go:build linux

package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"gatecontrol/model"
)

// outside answers echo requests for the world behind the exit. They reach it
// in datagrams on loopback, as they reach the system in those of its sockets.
type outside struct {
	socket *net.UDPConn
	closed string // address of a UDP port that nobody has

	refuse    atomic.Pointer[error]
	elsewhere atomic.Pointer[string] // messages go to this address

	silent atomic.Bool
	forge  atomic.Bool  // wrong answers come before the right one
	ttl    atomic.Int32 // of the last request
	asked  atomic.Int32 // destinations so far
}

func newOutside(t testing.TB) *outside {
	t.Helper()
	local := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	gone, err := net.ListenUDP("udp4", local)
	if err != nil {
		t.Fatal(err)
	}
	o := &outside{closed: gone.LocalAddr().String()}
	_ = gone.Close()
	if o.socket, err = net.ListenUDP("udp4", local); err != nil {
		t.Fatal(err)
	}
	raw, err := o.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVTTL, 1) }); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.serve()
	}()
	t.Cleanup(func() { _ = o.socket.Close(); <-ended })
	return o
}

func (o *outside) serve() {
	buf, control := make([]byte, 65535), make([]byte, 64)
	for {
		n, size, _, from, err := o.socket.ReadMsgUDPAddrPort(buf, control)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(control[:size])
		for _, m := range messages {
			if m.Header.Type == unix.IP_TTL {
				o.ttl.Store(int32(binary.NativeEndian.Uint32(m.Data)))
			}
		}
		m := buf[:n]
		if _, ok := parseEcho(m, icmpEcho); !ok || o.silent.Load() {
			continue
		}
		say := func(change func(m []byte)) {
			m := bytes.Clone(m)
			change(m)
			_, _ = o.socket.WriteToUDPAddrPort(m, from)
		}
		if o.forge.Load() {
			say(func(m []byte) {})                                                                // a request
			say(func(m []byte) { m[0] = 0 })                                                      // damaged
			say(func(m []byte) { answerEcho(m); setEchoID(m, binary.BigEndian.Uint16(m[4:])+1) }) // somebody else's
			_, _ = o.socket.WriteToUDPAddrPort([]byte{0, 0}, from)
			_, _ = o.socket.WriteToUDPAddrPort(nil, from)
		}
		say(answerEcho)
	}
}

// answerEcho makes a reply of a request.
func answerEcho(m []byte) {
	m[0] = icmpEchoReply
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], checksum(m))
}

func (o *outside) dial(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
	o.asked.Add(1)
	if err := o.refuse.Load(); err != nil {
		return nil, *err
	}
	addr := o.socket.LocalAddr().String()
	if other := o.elsewhere.Load(); other != nil {
		addr = *other
	}
	var d net.Dialer
	return d.DialContext(ctx, "udp4", addr)
}

func (o *outside) options(to *Options) {
	to.DialExit = o.dial
	to.PublicAddrs = []netip.Addr{netip.MustParseAddr("1.2.3.4")}
}

// bare is a peer of another make that has no network stack: the test writes
// and reads its packets.
type bare struct {
	t    testing.TB
	key  model.PrivateKey
	addr netip.Addr
	tun  *tuntest.ChannelTUN
	got  chan []byte
}

func newBare(t testing.TB, n byte) *bare {
	return &bare{t: t, key: model.NewPrivateKey(), addr: netip.AddrFrom4([4]byte{10, 8, 0, n})}
}

func (b *bare) config() Peer {
	return Peer{Name: b.addr.String(), PublicKey: b.key.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(b.addr, 32)}}
}

func (b *bare) up(d *Device) {
	b.t.Helper()
	b.tun, b.got = tuntest.NewChannelTUN(), make(chan []byte, 1024)
	wg := device.NewDevice(b.tun.TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case p := <-b.tun.Inbound:
				select {
				case b.got <- p:
				default: // the test does not look
				}
			case <-done:
				return
			}
		}
	}()
	b.t.Cleanup(func() { wg.Close(); close(done); <-ended })
	server, status := d.key, d.Status()
	err := wg.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\n",
		hex.EncodeToString(b.key[:]), hex.EncodeToString(server[:]), status.ListenPort))
	if err == nil {
		err = wg.Up()
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bare) send(packets ...[]byte) {
	b.t.Helper()
	for _, p := range packets {
		select {
		case b.tun.Outbound <- p:
		case <-time.After(patience):
			b.t.Fatal("the peer takes no packet")
		}
	}
}

// ask sends a packet, again and again as it may be lost, until a packet arrives
// that f takes. Fragments are put together first.
func (b *bare) ask(what string, packets [][]byte, f func(h ipv4, payload []byte) bool) {
	b.t.Helper()
	give := time.After(patience)
	var payload []byte
	for {
		b.send(packets...)
		again := time.After(500 * time.Millisecond)
	wait:
		for {
			select {
			case p := <-b.got:
				h, ok := parseIPv4(p)
				if !ok || checksum(p[:h.length]) != 0 || h.dst != word(b.addr) {
					b.t.Fatalf("the peer gets %x", p)
				}
				if h.offset != len(payload) {
					payload = payload[:0]
				}
				payload = append(payload, p[h.length:h.total]...)
				if h.more {
					continue
				}
				if f(h, payload) {
					return
				}
				payload = payload[:0]
			case <-again:
				break wait
			case <-give:
				b.t.Fatalf("no %s", what)
			}
		}
	}
}

// complaint asks until an ICMP error about packet arrives, and returns it.
func (b *bare) complaint(packet []byte) (from netip.Addr, message []byte) {
	b.t.Helper()
	b.ask("ICMP error", [][]byte{packet}, func(h ipv4, payload []byte) bool {
		if h.proto != protoICMP || len(payload) < icmpHeader+ipv4Header+icmpHeader || payload[0] == icmpEchoReply {
			return false
		}
		if checksum(payload) != 0 {
			b.t.Fatalf("checksum of %x", payload)
		}
		from, message = address(h.src), bytes.Clone(payload)
		quote := payload[icmpHeader:]
		return bytes.Equal(quote[12:20], packet[12:20]) && bytes.Equal(quote[20:22], packet[20:22]) && bytes.Equal(quote[24:28], packet[24:28])
	})
	return from, message
}

func echoRequest(src, dst netip.Addr, id, seq uint16, data []byte) []byte {
	m := []byte{icmpEcho, 0, 0, 0}
	m = binary.BigEndian.AppendUint16(m, id)
	m = binary.BigEndian.AppendUint16(m, seq)
	m = append(m, data...)
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return packet(src, dst, protoICMP, m)
}

// withTTL changes the TTL of a packet.
func withTTL(p []byte, ttl uint8) []byte {
	p[8] = ttl
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ipv4Header]))
	return p
}

func inFragments(p []byte) (list [][]byte) {
	const size = 1400
	if len(p) <= 1420 {
		return [][]byte{p}
	}
	id := uint16(rand.Uint32())
	for from := 0; from < len(p)-ipv4Header; from += size {
		list = append(list, fragmentOf(p, id, from, min(from+size, len(p)-ipv4Header)))
	}
	return list
}

// echoScene is a server with an open exit, the outside, and a bare peer.
func echoScene(t testing.TB, change func(*Options)) (*outside, *Device, *bare, Config) {
	t.Helper()
	o, b := newOutside(t), newBare(t, 2)
	config := Config{Peers: []Peer{b.config()}, Exit: Exit{Enabled: true}}
	d := started(t, func(to *Options) {
		o.options(to)
		if change != nil {
			change(to)
		}
	}, config)
	b.up(d)
	return o, d, b, config
}

var anywhere = netip.MustParseAddr("1.1.1.1")

func TestExitEcho(t *testing.T) {
	o, d, b, config := echoScene(t, nil)
	exchange := func(t *testing.T, id, seq uint16, size int) {
		t.Helper()
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		request := echoRequest(b.addr, anywhere, id, seq, data)
		want := bytes.Clone(request[ipv4Header:])
		answerEcho(want)
		b.ask(fmt.Sprintf("answer of %d bytes", size), inFragments(request), func(h ipv4, payload []byte) bool {
			if h.src != word(anywhere) || h.proto != protoICMP || checksum(payload) != 0 {
				t.Fatalf("from %s: %x", address(h.src), payload)
			}
			return bytes.Equal(payload, want)
		})
	}
	for _, size := range []int{0, 1, 56, 1392, 1393, 3000, 65000} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) { exchange(t, 0x1234, uint16(size), size) })
	}
	if n := d.Status().Exit.EchoFlows; n != 1 {
		t.Errorf("%d flows of one identifier", n)
	}
	t.Run("wrong answers", func(t *testing.T) {
		o.forge.Store(true)
		defer o.forge.Store(false)
		exchange(t, 77, 1, 56)
		exchange(t, 77, 2, 56)
	})
	t.Run("TTL", func(t *testing.T) {
		for _, ttl := range []uint8{2, 5, 64, 255} {
			b.ask("answer", [][]byte{withTTL(echoRequest(b.addr, anywhere, 7, uint16(ttl), nil), ttl)}, func(_ ipv4, m []byte) bool {
				return binary.BigEndian.Uint16(m[6:]) == uint16(ttl)
			})
			if got := o.ttl.Load(); got != int32(ttl)-1 {
				t.Errorf("%d became %d", ttl, got)
			}
		}
	})
	t.Run("damaged", func(t *testing.T) {
		before := o.asked.Load()
		bad := echoRequest(b.addr, anywhere, 999, 1, []byte("damaged"))
		bad[len(bad)-1]++
		b.send(bad)
		exchange(t, 7, 3, 10)
		if o.asked.Load() != before {
			t.Error("a damaged request went out")
		}
	})
	t.Run("to this server", func(t *testing.T) {
		before := o.asked.Load()
		b.ask("answer", [][]byte{echoRequest(b.addr, testAddr, 1, 1, nil)}, func(h ipv4, m []byte) bool {
			return h.src == word(testAddr) && m[0] == icmpEchoReply
		})
		if o.asked.Load() != before {
			t.Error("went out")
		}
	})
	t.Run("cut", func(t *testing.T) {
		apply(t, d, Config{Peers: config.Peers})
		eventually(t, "end of all flows", func() bool { return d.Status().Exit == ExitStatus{} })
		apply(t, d, config)
		exchange(t, 7, 4, 10)
	})
}

// Who may not ping somebody is told so at once, whoever that is, and nothing is
// sent.
func TestExitEchoRefused(t *testing.T) {
	o, d, b, config := echoScene(t, nil)
	refused := func(t *testing.T, target string) {
		t.Helper()
		request := echoRequest(b.addr, netip.MustParseAddr(target), 1, 2, bytes.Repeat([]byte("data"), 300))
		from, m := b.complaint(request)
		if from != testAddr || m[0] != icmpUnreachable || m[1] != errorProhibited.v4[1] {
			t.Errorf("%s: %s answers %x", target, from, m)
		}
		if len(m) != icmpHeader+icmpQuote || !bytes.Equal(m[icmpHeader+ipv4Header:], request[ipv4Header:icmpQuote]) {
			t.Errorf("%s: quoted %x", target, m)
		}
	}
	targets := []string{"1.2.3.4", "10.8.0.99", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "168.63.129.16", "192.0.2.1"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ip := addr.(*net.IPNet).IP; ip.To4() != nil && !ip.IsLoopback() {
			targets = append(targets, ip.String())
		}
	}
	for _, target := range targets {
		t.Run(target, func(t *testing.T) { refused(t, target) })
	}
	t.Run("exit off", func(t *testing.T) {
		apply(t, d, Config{Peers: config.Peers})
		refused(t, anywhere.String())
		apply(t, d, config)
	})
	t.Run("peer without exit", func(t *testing.T) {
		closed := b.config()
		closed.NoExit = true
		apply(t, d, Config{Peers: []Peer{closed}, Exit: config.Exit})
		refused(t, anywhere.String())
		apply(t, d, config)
	})
	if n := o.asked.Load(); n != 0 {
		t.Fatalf("%d destinations were asked", n)
	}
	if _, err := d.exit.dialHost(t.Context(), "icmp", netip.MustParseAddrPort("127.0.0.1:0")); !errors.Is(err, syscall.EACCES) {
		t.Fatalf("the dialer reaches loopback: %v", err)
	}
}

// What the system says when it is asked to send is passed on.
func TestExitErrors(t *testing.T) {
	o, d, b, _ := echoScene(t, nil)
	ping, datagram := echoRequest(b.addr, anywhere, 5, 6, []byte("data")), udpDatagram(b.addr, anywhere, 9, 100)
	for name, p := range map[string][]byte{"echo": ping, "datagram": datagram} {
		for _, c := range []struct {
			err  error
			code uint8
		}{
			{&net.OpError{Op: "dial", Err: syscall.ENETUNREACH}, errorNoRoute.v4[1]},
			{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, errorNoHost.v4[1]},
			{&net.OpError{Op: "dial", Err: syscall.EACCES}, errorProhibited.v4[1]},
		} {
			t.Run(fmt.Sprint(name, " ", c.err), func(t *testing.T) {
				o.refuse.Store(&c.err)
				defer o.refuse.Store(nil)
				if from, m := b.complaint(p); from != testAddr || m[0] != icmpUnreachable || m[1] != c.code {
					t.Errorf("%s says %x", from, m)
				}
			})
		}
		t.Run(name+" that may go no further", func(t *testing.T) {
			before := o.asked.Load()
			if from, m := b.complaint(withTTL(bytes.Clone(p), 1)); from != testAddr || m[0] != icmpTimeExceeded || m[1] != errorHops.v4[1] {
				t.Errorf("%s says %x", from, m)
			}
			if o.asked.Load() != before {
				t.Error("went on")
			}
		})
	}
	t.Run("no descriptor", func(t *testing.T) { // no fault of the destination
		err := error(syscall.EMFILE)
		o.refuse.Store(&err)
		b.send(ping)
		o.refuse.Store(nil)
		b.ask("answer", [][]byte{ping}, func(_ ipv4, m []byte) bool { return m[0] == icmpEchoReply })
	})
	eventually(t, "end of UDP flows", func() bool { return d.Status().Exit.UDPFlows == 0 })
}

// An ICMP error that the system has received reaches the peer: here that of a
// real port that nobody has.
func TestExitErrorsFromAfar(t *testing.T) {
	o, d, b, _ := echoScene(t, nil)
	o.elsewhere.Store(&o.closed)
	t.Run("echo", func(t *testing.T) {
		ping := echoRequest(b.addr, anywhere, 5, 6, []byte("data"))
		from, m := b.complaint(ping)
		if from != testAddr || m[0] != icmpUnreachable || m[1] != errorNoPort.v4[1] {
			t.Errorf("%s says %x", from, m)
		}
		if quoted := m[icmpHeader+ipv4Header:]; !bytes.Equal(quoted, ping[ipv4Header:]) {
			t.Errorf("quoted %x of %x", quoted, ping[ipv4Header:])
		}
	})
	t.Run("datagram", func(t *testing.T) {
		from, m := b.complaint(udpDatagram(b.addr, anywhere, 9, 100))
		if from != testAddr || m[0] != icmpUnreachable || m[1] != errorNoPort.v4[1] {
			t.Errorf("%s says %x", from, m)
		}
		eventually(t, "end of the flow", func() bool { return d.Status().Exit.UDPFlows == 0 })
	})
	t.Run("after an answer", func(t *testing.T) { // the flow goes on
		answering, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		at := answering.LocalAddr().(*net.UDPAddr)
		o.elsewhere.Store(new(at.String()))
		datagram := udpDatagram(b.addr, anywhere, 4444, 10)
		b.send(datagram)
		buf := make([]byte, 100)
		_ = answering.SetReadDeadline(time.Now().Add(patience))
		_, port, err := answering.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := answering.WriteToUDPAddrPort([]byte("answer"), port); err != nil {
			t.Fatal(err)
		}
		b.ask("answer", nil, func(h ipv4, p []byte) bool { return h.proto == protoUDP && string(p[udpHeader:]) == "answer" })
		_ = answering.Close()
		if _, m := b.complaint(datagram); m[1] != errorNoPort.v4[1] {
			t.Errorf("%x", m)
		}
		answering, err = net.ListenUDP("udp4", at)
		if err != nil {
			t.Fatal(err)
		}
		defer answering.Close()
		b.send(datagram)
		_ = answering.SetReadDeadline(time.Now().Add(patience))
		if _, again, err := answering.ReadFromUDPAddrPort(buf); err != nil || again != port {
			t.Errorf("from %s, then from %s: %v", port, again, err)
		}
	})
}

// A peer that pings more than its share gets no more, and others get theirs.
func TestExitEchoLimits(t *testing.T) {
	t.Parallel()
	o, d, b, config := echoScene(t, nil)
	other := newBare(t, 3)
	config.Peers = append(config.Peers, other.config())
	apply(t, d, config)
	other.up(d)
	o.silent.Store(true)
	id := uint16(0)
	eventually(t, "full share", func() bool {
		for range 10 {
			id++
			b.send(echoRequest(b.addr, anywhere, id, 1, nil))
		}
		return d.Status().Exit.EchoFlows == maxEchoFlowsPeer
	})
	for range echoBurst {
		id++
		b.send(echoRequest(b.addr, anywhere, id, 1, nil))
	}
	o.silent.Store(false)
	other.ask("answer to another peer", [][]byte{echoRequest(other.addr, anywhere, 1, 1, nil)}, func(_ ipv4, m []byte) bool { return m[0] == icmpEchoReply })
	if n := d.Status().Exit.EchoFlows; n != maxEchoFlowsPeer+1 {
		t.Errorf("%d flows", n)
	}

	var l identity
	now := time.Now()
	for range echoBurst {
		if !l.echoes().AllowN(now, 1) {
			t.Fatal("less than a burst")
		}
	}
	if l.echoes().AllowN(now, 1) || !l.echoes().AllowN(now.Add(time.Second/echoRate), 1) {
		t.Error("another rate")
	}
}

func TestExitEchoIdle(t *testing.T) {
	b := newBare(t, 2)
	d := newServer(t, newOutside(t).options)
	d.exit.echoIdle = 100 * time.Millisecond
	apply(t, d, Config{Peers: []Peer{b.config()}, Exit: Exit{Enabled: true}})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	b.up(d)
	ping := echoRequest(b.addr, anywhere, 1, 1, nil)
	for range 2 {
		b.ask("answer", [][]byte{ping}, func(_ ipv4, m []byte) bool { return m[0] == icmpEchoReply })
		eventually(t, "end of the idle flow", func() bool { return d.Status().Exit == ExitStatus{} })
	}
	d.exit.echoes.mu.Lock()
	defer d.exit.echoes.mu.Unlock()
	if len(d.exit.echoes.flows) != 0 {
		t.Error("a flow that has ended is kept")
	}
}

// A process that may not ping says so to whoever wants to, and to the log what
// to do, once.
func TestExitEchoNotPermitted(t *testing.T) {
	var log lines
	o, _, b, _ := echoScene(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	err := fmt.Errorf("open: %w", errNoEcho)
	o.refuse.Store(&err)
	for id := range uint16(3) {
		if from, m := b.complaint(echoRequest(b.addr, anywhere, id, 1, nil)); from != testAddr || m[1] != errorProhibited.v4[1] {
			t.Errorf("%s says %x", from, m)
		}
	}
	if text := log.String(); strings.Count(text, "net.ipv4.ping_group_range") != 1 {
		t.Errorf("log: %s", text)
	}
	o.refuse.Store(nil) // allowed meanwhile
	b.ask("answer", [][]byte{echoRequest(b.addr, anywhere, 1, 2, nil)}, func(_ ipv4, m []byte) bool { return m[0] == icmpEchoReply })
}

// lines is a log that several goroutines write.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// connected is a socket that tells what it is connected to.
type connected struct {
	*net.UDPConn
	to *net.UDPAddr
}

func (c connected) RemoteAddr() net.Addr { return c.to }

// The system's own sockets, of the kind that this process may open.
func TestICMPSocket(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	c, err := dialICMP(loopback)
	if errors.Is(err, errNoEcho) {
		t.Skip("needs net.ipv4.ping_group_range or CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%T", c) // UDPConn is the unprivileged kind, IPConn the raw one
	_ = c.Close()
	_, _, b, _ := echoScene(t, func(o *Options) {
		o.DialExit = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			c, err := dialICMP(loopback)
			if u, ok := c.(*net.UDPConn); ok {
				c = connected{u, &net.UDPAddr{IP: loopback.AsSlice()}}
			}
			return c, err
		}
	})
	for _, size := range []int{0, 56, 3000, 60000} {
		b.ask(fmt.Sprintf("answer of %d bytes", size), inFragments(echoRequest(b.addr, anywhere, 9, uint16(size), make([]byte, size))), func(h ipv4, m []byte) bool {
			return h.src == word(anywhere) && m[0] == icmpEchoReply && m[5] == 9 && len(m) == icmpHeader+size && checksum(m) == 0
		})
	}
	if _, err := dialICMP(netip.MustParseAddr("255.255.255.255")); err == nil {
		t.Error("a socket for broadcasts")
	}
}

// Echo through the exit over the system's own sockets: loopback answers for the
// world.
func TestExitEcho6(t *testing.T) {
	loopback := netip.IPv6Loopback()
	c, err := dialICMP(loopback)
	if err != nil {
		t.Skip("needs ICMPv6 sockets: ", err)
	}
	_ = c.Close()
	d, one, _ := dualRouter(t, func(o *Options) {
		o.DialExit = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			c, err := dialICMP(loopback)
			if u, ok := c.(*net.UDPConn); ok {
				c = connected{u, &net.UDPAddr{IP: loopback.AsSlice()}}
			}
			return c, err
		}
	})
	for seq, size := range []int{0, 56, 1232} { // as much as takeMessage takes
		data := bytes.Repeat([]byte{byte(size)}, size)
		one.send(echoRequest6("fd00:8::2", "2606:4700::1111", 64, 77, uint16(seq), data))
		h, m := takeMessage(t, one)
		if netip.AddrFrom16(h.src) != netip.MustParseAddr("2606:4700::1111") || m[0] != icmp6EchoReply ||
			binary.BigEndian.Uint16(m[4:]) != 77 || binary.BigEndian.Uint16(m[6:]) != uint16(seq) || !bytes.Equal(m[icmpHeader:], data) {
			t.Errorf("%d bytes: %x", size, m)
		}
	}
	if n := d.Status().Exit.EchoFlows; n != 1 {
		t.Errorf("%d flows of one identifier", n)
	}
	for seq, size := range []int{1393, 3000, 60000} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		request := echoRequest6("fd00:8::2", "2606:4700::1111", 64, 77, uint16(seq), data)
		pieces := inFragments6(request, uint32(seq))
		rand.Shuffle(min(len(pieces), fragmentSpans), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		one.send(pieces...)
		m := make([]byte, icmpHeader+size)
		for _, p := range one.take((len(m) + 1367) / 1368) { // 1420 less both headers
			h, ok := parseIPv6(p)
			if !ok || !h.fragment || h.proto != protoICMPv6 {
				t.Fatalf("%d bytes: %x", size, p)
			}
			copy(m[h.offset:], p[h.length:h.total])
		}
		if m[0] != icmp6EchoReply || binary.BigEndian.Uint16(m[6:]) != uint16(seq) || !bytes.Equal(m[icmpHeader:], data) {
			t.Errorf("%d bytes: another answer", size)
		}
	}
	whole := echoRequest6("fd00:8::2", "2606:4700::1111", 64, 77, 9, make([]byte, 3000))
	one.send(fragmentOf6(whole, 9, 0, 1360), fragmentOf6(whole, 9, 1352, 2720), fragmentOf6(whole, 9, 2720, 3008)) // two overlap
	one.send(fragmentOf6(whole, 10, 0, 1360))                                                                      // no more of it comes
	bad := echoRequest6("fd00:8::2", "2606:4700::1111", 64, 78, 1, []byte("damaged"))
	bad[len(bad)-1]++
	one.send(bad, echoRequest6("fd00:8::2", "fd00:8::1", 64, 79, 1, nil))
	if _, m := takeMessage(t, one); m[5] != 79 {
		t.Errorf("a damaged request was answered: %x", m)
	}
	apply(t, d, Config{})
	eventually(t, "end of the flow", func() bool { return d.Status().Exit == ExitStatus{} })
}

func inFragments6(p []byte, id uint32) (list [][]byte) {
	const size = 1360
	for from := 0; from < len(p)-ipv6Header; from += size {
		list = append(list, fragmentOf6(p, id, from, min(from+size, len(p)-ipv6Header)))
	}
	return list
}

// Echo messages may hold anything. What is accepted keeps a right checksum
// under another identifier.
func FuzzEcho(f *testing.F) {
	f.Add(echoRequest(testAddr, anywhere, 1, 2, []byte("data")), uint16(0xffff))
	f.Add(echoRequest(testAddr, anywhere, 0xffff, 0xffff, nil), uint16(0))
	f.Add([]byte{0x45, 0, 0, 20}, uint16(7))
	f.Fuzz(func(t *testing.T, p []byte, id uint16) {
		h, ok := parseIPv4(p)
		if !ok {
			return
		}
		m := bytes.Clone(p[h.length:h.total])
		for _, typ := range []uint8{icmpEcho, icmpEchoReply} {
			if was, ok := parseEcho(m, typ); ok {
				setEchoID(m, id)
				if got, ok := parseEcho(m, typ); !ok || got != id {
					t.Fatalf("%x after %d became %d", m, was, id)
				}
			}
		}
		if _, ok := parseEchoHeader(m, icmpEcho); ok {
			flow := &flow{src: netip.AddrPortFrom(testAddr, id), dst: netip.AddrPortFrom(anywhere, 0)}
			q := quoteEcho(flow, m)
			if h, ok := parseIPv4(q); !ok || h.total != len(q) || len(q) > icmpQuote || checksum(q[:ipv4Header]) != 0 {
				t.Fatalf("quoted as %x", q)
			}
		}
	})
}

func FuzzExtendedError(f *testing.F) {
	f.Add([]byte{113, 0, 0, 0, 2, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 1, 1, 1})
	f.Add([]byte{111, 0, 0, 0, 2, 3, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parseExtendedError(b); ok && (e.from.IsValid() && e.from.Is4In6() || e.mtu < 0 || e.mtu > 65535) {
			t.Fatalf("%+v", e)
		}
	})
}
