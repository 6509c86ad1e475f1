package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/model"
	"gatecontrol/wireguard"
)

// tcpPacket is a TCP packet between the server's port 80 and the peer's port
// 1000, whichever way, with these bytes of options.
func tcpPacket(fromServer bool, flags byte, seq, ack uint32, options, payload []byte) []byte {
	src, dst, ports := plainIP, testAddr, [4]byte{1000 >> 8, 1000 & 0xff, 0, 80}
	if fromServer {
		src, dst, ports = dst, src, [4]byte{0, 80, 1000 >> 8, 1000 & 0xff}
	}
	p := appendIPv4(nil, 0, 64, protoTCP, word(src), word(dst), tcpHeader+len(options)+len(payload))
	t := append(p[ipv4Header:], ports[:]...)
	t = binary.BigEndian.AppendUint32(t, seq)
	t = binary.BigEndian.AppendUint32(t, ack)
	t = append(t, byte(tcpHeader+len(options))<<2, flags, 0xff, 0xff, 0, 0, 0, 0)
	t = append(append(t, options...), payload...)
	sum := onesSum(0).add(p[12:20]).word(protoTCP).word(uint16(len(t))).add(t).fold()
	binary.BigEndian.PutUint16(t[16:], ^sum)
	return append(p[:ipv4Header], t...)
}

// fromStack4 makes a packet such as the stack hands over.
func fromStack4(p []byte) *stack.PacketBuffer {
	head, _ := parseIPv4(p)
	end := head.length
	if head.proto == protoTCP && len(p) >= end+tcpHeader {
		end += int(p[end+12]>>4) * 4
	}
	end = min(max(end, head.length), len(p))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: end, Payload: buffer.MakeWithData(p[end:]),
	})
	copy(pkt.TransportHeader().Push(end-head.length), p[head.length:end])
	copy(pkt.NetworkHeader().Push(head.length), p[:head.length])
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	return pkt
}

// timestamps is the option, with the padding that is customary.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// sack is one block, without time stamps.
var sack = []byte{1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0}

// watched are streams with one that has sent data, and acknowledged so much. The
// peer is not there.
type watched struct {
	*streams
	to *wireguard.Peer
}

func watch(t testing.TB, start uint32) *watched {
	t.Helper()
	w := newWatched(t)
	if !w.write(tcpPacket(true, flagACK|flagPSH, 1, start, nil, []byte("data"))) {
		t.Fatal("data is kept")
	}
	return w
}

func newWatched(t testing.TB) *watched {
	t.Helper()
	d, err := wireguard.New(wireguard.Options{
		PrivateKey: model.NewPrivateKey(), MTU: 1420, Receive: func(*wireguard.Peer, [][]byte) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	to, err := d.Add(wireguard.PeerConfig{PublicKey: model.NewPrivateKey().Public()})
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{new(streams), to}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.timer != nil {
			w.timer.Stop()
		}
	})
	return w
}

func (w *watched) write(p []byte) bool {
	pkt := fromStack4(p)
	defer pkt.DecRef()
	return w.outgoing(w.to, pkt, 1420)
}

// flow is what is known of the only flow, nil if nothing is.
func (x *streams) flow() *delayed {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.young {
		known := f.ack
		return &known
	}
	return nil
}

// listed is how many flows the timer looks at.
func (w *watched) listed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

func TestAcksPass(t *testing.T) {
	type step struct {
		flags            byte
		ack              uint32 // from where the flow was
		options, payload []byte
		want             bool
	}
	data := []byte("data")
	for name, steps := range map[string][]step{
		"one small segment":            {{flagACK, 100, nil, nil, false}},
		"with time stamps":             {{flagACK, 100, timestamps, nil, false}},
		"one full segment":             {{flagACK, 1380, nil, nil, false}},
		"every second full segment":    {{flagACK, 1368, timestamps, nil, false}, {flagACK, 2 * 1368, timestamps, nil, true}, {flagACK, 3 * 1368, timestamps, nil, false}},
		"two of a peer with MTU 1280":  {{flagACK, 1228, nil, nil, false}, {flagACK, 2 * 1228, nil, nil, true}},
		"many small ones":              {{flagACK, 700, nil, nil, false}, {flagACK, 1400, nil, nil, false}, {flagACK, 1421, nil, nil, true}},
		"joined segments":              {{flagACK, 60000, nil, nil, true}},
		"data says it":                 {{flagACK, 100, nil, nil, false}, {flagACK, 100, nil, data, true}, {flagACK, 200, nil, nil, false}},
		"data only":                    {{flagACK, 0, nil, data, true}, {flagACK | flagPSH, 100, nil, data, true}},
		"duplicate":                    {{flagACK, 0, nil, nil, true}, {flagACK, 0, nil, nil, true}},
		"duplicate of what is held":    {{flagACK, 100, nil, nil, false}, {flagACK, 100, nil, nil, true}, {flagACK, 100, nil, nil, true}},
		"gap, without time stamps":     {{flagACK, 100, nil, nil, false}, {flagACK, 100, sack, nil, true}},
		"gap, with time stamps":        {{flagACK, 0, append(timestamps, sack...), nil, true}},
		"gap and progress":             {{flagACK, 100, append(timestamps, sack...), nil, true}},
		"from before":                  {{flagACK, 1<<32 - 100, nil, nil, true}},
		"end":                          {{flagACK, 100, nil, nil, false}, {flagACK | flagFIN, 100, nil, nil, true}, {flagACK, 200, nil, nil, true}},
		"reset":                        {{flagACK, 100, nil, nil, false}, {flagRST, 0, nil, nil, true}, {flagACK, 200, nil, nil, true}},
		"another flow with this name":  {{flagSYN | flagACK, 5000, nil, nil, true}, {flagACK, 5000, nil, nil, true}, {flagACK, 5100, nil, nil, true}, {flagACK, 5200, nil, data, true}, {flagACK, 5300, nil, nil, false}},
		"urgent and congestion signal": {{flagACK | flagURG, 100, nil, nil, true}, {flagACK | flagCWR, 200, nil, nil, true}},
	} {
		for _, start := range []uint32{1000, 1<<32 - 50} { // numbers wrap around
			t.Run(fmt.Sprintf("%s/%d", name, start), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // where no time passes by itself
					w, last := watch(t, start), steps[len(steps)-1]
					for i, s := range steps {
						if got := w.write(tcpPacket(true, s.flags, 1, start+s.ack, s.options, s.payload)); got != s.want {
							t.Errorf("packet %d: %v", i, got)
						}
					}
					time.Sleep(ackDelay - 1)
					synctest.Wait()
					if f := w.flow(); f != nil && f.size > 0 == last.want {
						t.Errorf("%d bytes are held", f.size)
					}
					time.Sleep(ackTick + 1)
					synctest.Wait()
					if f := w.flow(); f != nil && (f.size > 0 || !last.want && f.sent != start+last.ack) {
						t.Errorf("%d bytes are still held, %d is acknowledged", f.size, f.sent)
					}
					if n := w.listed(); n > 0 {
						t.Errorf("%d wait", n)
					}
				})
			})
		}
	}
}

// Only a flow that has sent data is watched, and only so many.
func TestAcksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, 1000)
		write := func(port uint16, ack uint32, data []byte) bool {
			p := tcpPacket(true, flagACK, 1, ack, nil, data)
			binary.BigEndian.PutUint16(p[ipv4Header+2:], port)
			return w.write(p)
		}
		const ports = 3 * maxStreams
		data := []byte("data")
		if !write(1, 1100, nil) || len(w.young) != 1 {
			t.Error("a flow without data is watched")
		}
		for port := range uint16(ports) {
			if !write(port, 1000, data) {
				t.Fatal("data is kept")
			}
		}
		held := 0
		for port := range uint16(ports) {
			if !write(port, 1100, nil) {
				held++
			}
		}
		if len(w.young) != maxStreams || w.listed() != held || held < maxStreams-1 {
			t.Errorf("%d flows, %d held, %d wait", len(w.young), held, w.listed())
		}
		// Many ends make room for many beginnings, but not for more to wait.
		for port := range uint16(ports) {
			p := tcpPacket(true, flagRST, 1, 1100, nil, nil)
			binary.BigEndian.PutUint16(p[ipv4Header+2:], port)
			w.write(p)
		}
		for port := range uint16(maxStreams) {
			write(port+ports, 1000, data)
			write(port+ports, 1100, nil)
		}
		if n := w.listed(); n > maxStreams {
			t.Errorf("%d wait", n)
		}
		time.Sleep(ackDelay + ackTick)
		synctest.Wait()
		if n := w.listed(); n > 0 {
			t.Errorf("%d still wait", n)
		}
		for age := range uint16(2) { // new flows first, then all that were there
			time.Sleep(streamAge + 1)
			for port := range uint16(2 * maxStreams) {
				write(port+age*2*maxStreams, 1000, data)
			}
			for port := range uint16(2 * maxStreams) {
				write(port, 1000, data)
			}
			if n := len(w.young) + len(w.old); n > 2*maxStreams {
				t.Fatalf("%d flows after %d ages", n, age+1)
			}
		}
		for range 2 {
			time.Sleep(streamAge + 1)
			write(1000, 1000, data)
		}
		if n := len(w.young) + len(w.old); n > 2 {
			t.Errorf("%d flows are remembered", n)
		}
	})
}

// A busy flow that holds an acknowledgement and drops it again, over and over,
// costs neither memory nor a packet.
func TestAcksOfABusyFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, 1000)
		for i := range uint32(1000) {
			if w.write(tcpPacket(true, flagACK, 1, 1100+100*i, nil, nil)) {
				t.Fatal("passes")
			}
			time.Sleep(ackDelay / 7)
			synctest.Wait()
			if w.flow().size == 0 {
				t.Fatal("sent too early")
			}
			w.write(tcpPacket(true, flagACK, 1, 1100+100*i, nil, []byte("data")))
			if n := w.listed(); n > 1 {
				t.Fatalf("%d wait", n)
			}
		}
	})
}

// dialog is a TCP connection that a raw peer has opened to the server.
type dialog struct {
	*raw
	server   *Device
	seq, ack uint32
	options  []byte
	opened   byte // the flags of the server's SYN
}

func (g *dialog) write(flags byte, payload []byte) {
	g.send(tcpPacket(false, flags, g.seq, g.ack, g.options, payload))
	g.seq += uint32(len(payload))
}

// next returns the next packet, and its payload.
func (g *dialog) next() (flags byte, ack uint32, payload []byte) {
	g.t.Helper()
	eventually(g.t, "packet", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.got) > 0
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.got[0]
	g.got = g.got[1:]
	t := p[ipv4Header:]
	payload = t[int(t[12]>>4)*4:]
	if len(payload) > 0 {
		g.ack = binary.BigEndian.Uint32(t[4:]) + uint32(len(payload))
	}
	return t[13], binary.BigEndian.Uint32(t[8:]), payload
}

// open does the handshake with a server that answers by handle.
func open(t *testing.T, options []byte, handle func(net.Conn)) *dialog {
	t.Helper()
	return openWith(t, flagSYN, options, handle)
}

// openWith opens with these flags.
func openWith(t *testing.T, flags byte, options []byte, handle func(net.Conn)) *dialog {
	t.Helper()
	d, plain, _ := router(t, nil)
	listen(t, d, 80, handle)
	g := &dialog{raw: plain, server: d, seq: 1<<32 - 2000} // wraps around soon
	g.options = append([]byte{2, 4, 1380 >> 8, 1380 & 0xff}, options...)
	g.write(flags, nil)
	g.seq++
	eventually(t, "SYN ACK", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.got) > 0
	})
	g.ack = binary.BigEndian.Uint32(g.got[0][ipv4Header+4:]) + 1
	g.opened, _, _ = g.next()
	if g.options = options; len(options) > 0 {
		p := options
		p[len(p)-1]++
	}
	g.write(flagACK, nil)
	return g
}

// Requests and answers take one packet each, and the last answer's request is
// acknowledged in time where no answer comes.
func TestRequestsWithoutAcks(t *testing.T) {
	const silent = 's'
	g := open(t, nil, func(c net.Conn) {
		b := make([]byte, 100)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			if b[0] == silent {
				continue
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	request := bytes.Repeat([]byte("r"), 100)
	const n = 200
	pure := 0
	for range n {
		g.write(flagACK|flagPSH, request)
		for {
			_, _, payload := g.next()
			if len(payload) > 0 {
				break
			}
			pure++
		}
	}
	// The first is acknowledged at once; after that only those whose answer was
	// later than ackDelay, on a machine that is busy with other things.
	if pure > n/4 {
		t.Errorf("%d requests were acknowledged by packets of their own", pure)
	}
	g.write(flagACK, nil)
	for range 3 {
		request[0] = silent
		begin := time.Now()
		g.write(flagACK|flagPSH, request)
		if flags, ack, payload := g.next(); flags != flagACK || ack != g.seq || len(payload) > 0 {
			t.Fatalf("flags %x, number %d, %d bytes", flags, ack, len(payload))
		}
		if took := time.Since(begin); took < ackDelay/2 {
			t.Errorf("acknowledged after %s", took)
		}
	}
	// A probe of a peer that wants to know whether this side is there.
	g.send(tcpPacket(false, flagACK, g.seq-1, g.ack, nil, nil))
	if flags, ack, _ := g.next(); flags != flagACK || ack != g.seq {
		t.Errorf("flags %x, number %d", flags, ack)
	}
	// The end, right behind data.
	g.write(flagACK|flagPSH, request)
	g.write(flagACK|flagFIN, nil)
	for {
		flags, ack, _ := g.next()
		if ack == g.seq+1 && flags&flagFIN != 0 {
			break
		}
	}
}

// Of much data, every second segment is acknowledged, at least; and a gap is
// reported as often as it is seen.
func TestBulkIsAcknowledged(t *testing.T) {
	received := make(chan int64, 1)
	g := open(t, nil, func(c net.Conn) {
		_, _ = c.Write([]byte("hello")) // so that the flow is watched
		n, _ := io.Copy(io.Discard, c)
		received <- n
	})
	if _, _, hello := g.next(); string(hello) != "hello" {
		t.Fatalf("%q", hello)
	}
	g.write(flagACK, nil)
	segment := make([]byte, 1380)
	const n = 100
	last := g.seq
	for i := range n {
		g.write(flagACK, segment)
		if i%2 == 0 {
			continue
		}
		for last != g.seq {
			flags, ack, _ := g.next()
			if flags != flagACK || int32(ack-last) <= 0 || int32(g.seq-ack) < 0 {
				t.Fatalf("flags %x, number %d after %d", flags, ack, last)
			}
			last = ack
		}
	}
	// In order, its acknowledgement is held; then three behind a gap.
	g.write(flagACK, segment[:100])
	hole := g.seq
	known := &g.server.table.Load().lookup4(word(plainIP)).streams
	eventually(t, "acknowledgement", func() bool { f := known.flow(); return f.size > 0 || f.sent == hole })
	g.seq += 100
	for i := range 3 {
		g.write(flagACK, segment[:100+i]) // each longer than the one before, so that they are not joined
	}
	for i := range 4 {
		if _, ack, _ := g.next(); ack != hole {
			t.Fatalf("packet %d acknowledges %d, not %d", i, ack, hole)
		}
	}
	g.send(tcpPacket(false, flagACK, hole, g.ack, nil, segment[:100]))
	if _, ack, _ := g.next(); ack != g.seq {
		t.Fatalf("%d, not %d", ack, g.seq)
	}
	g.write(flagACK|flagFIN, nil)
	if got, want := <-received, int64(n*len(segment)+503); got != want {
		t.Errorf("%d bytes arrived of %d", got, want)
	}
}

func FuzzAcks(f *testing.F) {
	f.Add(tcpPacket(true, flagACK, 1, 1100, nil, nil))
	f.Add(tcpPacket(true, flagACK, 1, 1100, timestamps, nil))
	f.Add(tcpPacket(true, flagACK|flagFIN, 1, 1100, sack, []byte("data")))
	f.Add(udpDatagram(testAddr, plainIP, 53, 10))
	w := watch(f, 1000)
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, ok := parseIPv4(p); !ok {
			return
		}
		for range 3 {
			w.write(tcpPacket(true, flagACK, 1, 1000, nil, []byte("data")))
			w.write(p)
		}
		if w.listed() > maxStreams {
			t.Fatal("no bound")
		}
	})
}
