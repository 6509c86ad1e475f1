package proxy

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A conformance run of WebSocket (RFC 6455, RFC 7692) in the manner of the Autobahn
// test suite, whose numbers the sections bear: every case is a client that sends
// frames, right and wrong, and an expectation of what comes back. Each is run
// against the backend itself and through the proxy: the frames must be the same.

// socketCase is one case: what is sent, in pieces of chop bytes or, if that is 0,
// at once, and what comes back before the end. A close of 1000 is sent behind it.
type socketCase struct {
	name    string
	send    []frame
	chop    int
	deflate bool
	echo    []string // of messages and pongs, in order: "text:…", "binary:…", "pong:…"
	code    int      // of the closing frame that comes
}

// anyCode is of a closing frame that answers another one: most repeat its code,
// and need not (RFC 6455, section 5.5.1).
const anyCode = -1

// conformanceCases are all.
func conformanceCases() (cases []socketCase) {
	add := func(section string, c socketCase) {
		c.name = fmt.Sprintf("%s.%d %s", section, len(cases), c.name)
		if c.code == 0 {
			c.code = 1000
		}
		cases = append(cases, c)
	}
	fails := func(section, name string, code int, send ...frame) {
		add(section, socketCase{name: name, send: send, code: code})
	}
	big := func(n int) string { return strings.Repeat("*", n) }

	for _, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		add("1.1", socketCase{name: fmt.Sprint("text of ", n), send: []frame{text(big(n))}, echo: []string{"text:" + big(n)}})
		add("1.2", socketCase{name: fmt.Sprint("binary of ", n), send: []frame{binaryFrame([]byte(big(n)))}, echo: []string{"binary:" + big(n)}})
	}
	for _, chop := range []int{1, 997} {
		n := 65536
		if chop == 1 {
			n = 300
		}
		add("1.1", socketCase{name: fmt.Sprint("text in octets of ", chop), send: []frame{text(big(n))}, chop: chop, echo: []string{"text:" + big(n)}})
	}

	for _, p := range []string{"", "Hello", "\x00\xff\xfe\xfd\xfc\xfb\x00\xff", big(125)} {
		add("2", socketCase{name: fmt.Sprintf("ping of %d", len(p)), send: []frame{control(opPing, p)}, echo: []string{"pong:" + p}})
	}
	fails("2", "ping of 126", 1002, control(opPing, big(126)))
	add("2", socketCase{name: "ping in octets", send: []frame{control(opPing, big(125))}, chop: 1, echo: []string{"pong:" + big(125)}})
	add("2", socketCase{name: "unasked pong", send: []frame{control(opPong, ""), control(opPong, "x"), control(opPing, "after")}, echo: []string{"pong:after"}})
	pings, pongs := []frame{}, []string{}
	for i := range 10 {
		pings, pongs = append(pings, control(opPing, fmt.Sprint("payload-", i))), append(pongs, fmt.Sprint("pong:payload-", i))
	}
	add("2", socketCase{name: "ten pings", send: pings, echo: pongs})
	add("2", socketCase{name: "ten pings in octets", send: pings, chop: 1, echo: pongs})

	for rsv := byte(1); rsv < 8; rsv++ {
		f := text("Hello")
		f.rsv = rsv
		fails("3", fmt.Sprint("reserved bits ", rsv), 1002, f)
		f = control(opPing, "Hello")
		f.rsv = rsv
		fails("3", fmt.Sprint("reserved bits on a ping ", rsv), 1002, f)
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		fails("4", fmt.Sprint("opcode ", op), 1002, frame{true, 0, op, nil})
		fails("4", fmt.Sprint("opcode with payload ", op), 1002, frame{true, 0, op, []byte("payload")})
		add("4", socketCase{name: fmt.Sprint("behind a text, opcode ", op), send: []frame{text("first"), {true, 0, op, nil}, text("second")}, code: 1002, echo: []string{"text:first"}})
	}

	fails("5", "ping in fragments", 1002, part(opPing, "fragment1"), last("fragment2"))
	fails("5", "pong in fragments", 1002, part(opPong, "fragment1"), last("fragment2"))
	for _, chop := range []int{0, 1} {
		add("5", socketCase{name: fmt.Sprint("text in fragments, ", chop), chop: chop, send: []frame{part(opText, "fragment1"), last("fragment2")}, echo: []string{"text:fragment1fragment2"}})
		add("5", socketCase{name: fmt.Sprint("with a ping between, ", chop), chop: chop,
			send: []frame{part(opText, "fragment1"), control(opPing, "ping"), last("fragment2")}, echo: []string{"pong:ping", "text:fragment1fragment2"}})
		add("5", socketCase{name: fmt.Sprint("five with pings, ", chop), chop: chop,
			send: []frame{part(opText, "1"), part(0, "2"), control(opPing, "a"), part(0, "3"), part(0, "4"), control(opPing, "b"), last("5")},
			echo: []string{"pong:a", "pong:b", "text:12345"}})
		add("5", socketCase{name: fmt.Sprint("empty fragments, ", chop), chop: chop, send: []frame{part(opText, ""), part(0, ""), last("")}, echo: []string{"text:"}})
		add("5", socketCase{name: fmt.Sprint("empty but the middle, ", chop), chop: chop, send: []frame{part(opBinary, ""), part(0, "middle"), last("")}, echo: []string{"binary:middle"}})
	}
	fails("5", "continuation of nothing", 1002, last("non-continuation"), text("Hello"))
	fails("5", "open continuation of nothing", 1002, part(0, "non-continuation"), text("Hello"))
	fails("5", "text within fragments", 1002, part(opText, "fragment1"), text("fragment2"))
	add("5", socketCase{name: "continuation after the end", send: []frame{part(opText, "fragment1"), last("fragment2"), part(0, "fragment3")}, code: 1002, echo: []string{"text:fragment1fragment2"}})

	for _, s := range []string{
		"Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\u0080", "\u0800", "\U00010000", "\x7f", "\u07ff", "\uffff", "\U0010ffff",
		"\ud7ff", "\ue000", "\ufffd", "\ufffe", "\U0001fffe", "\U0010fffe", "",
	} {
		add("6", socketCase{name: fmt.Sprintf("text %+q", s), send: []frame{text(s)}, echo: []string{"text:" + s}})
		var pieces []frame
		for i := range len(s) {
			op := byte(opContinuation)
			if i == 0 {
				op = opText
			}
			pieces = append(pieces, frame{i == len(s)-1, 0, op, []byte{s[i]}})
		}
		if len(pieces) > 1 {
			add("6", socketCase{name: fmt.Sprintf("octets as fragments %+q", s), send: pieces, echo: []string{"text:" + s}})
		}
	}
	for _, s := range []string{
		"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", "\x80", "\xbf", "\x80\xbf\x80", "\xc0 ", "\xe0 ", "\xf0 ", "\xf8 ", "\xfc ",
		"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfe", "\xff", "\xfe\xfe\xff\xff",
		"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xc0\x80", "\xe0\x80\x80",
		"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80", "\xf4\x90\x80\x80",
	} {
		fails("6", fmt.Sprintf("not UTF-8 %+q", s), 1007, text(s))
		fails("6", fmt.Sprintf("not UTF-8, in fragments %+q", s), 1007, part(opText, "ok"), last(s))
	}
	add("6", socketCase{name: "any octets are binary", send: []frame{binaryFrame([]byte{0xff, 0xfe, 0x80})}, echo: []string{"binary:\xff\xfe\x80"}})

	add("7", socketCase{name: "text, then close", send: []frame{text("Hello World!")}, echo: []string{"text:Hello World!"}})
	add("7", socketCase{name: "close twice", send: []frame{closing(1000, ""), closing(1000, "")}})
	add("7", socketCase{name: "ping after close", send: []frame{closing(1000, ""), control(opPing, "x")}})
	add("7", socketCase{name: "text after close", send: []frame{closing(1000, ""), text("x")}})
	add("7", socketCase{name: "fragments around close", send: []frame{part(opText, "fragment1"), closing(1000, ""), last("fragment2")}})
	add("7", socketCase{name: "long message, then close", send: []frame{text(big(256 << 10)), closing(1000, "")}, echo: []string{"text:" + big(256<<10)}})
	fails("7", "close of one octet", 1002, control(opClose, "a"))
	add("7", socketCase{name: "close with a reason", send: []frame{closing(1000, "Hello World!")}})
	add("7", socketCase{name: "close with the longest reason", send: []frame{closing(1000, big(123))}})
	fails("7", "close with more than that", 1002, closing(1000, big(124)))
	fails("7", "close with a reason that is not UTF-8", 1007, closing(1000, "\xce\xba\xe1\xbd\xb9\xed\xa0\x80"))
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		add("7", socketCase{name: fmt.Sprint("close with ", code), send: []frame{closing(code, "")}, code: anyCode})
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		fails("7", fmt.Sprint("close with ", code), 1002, closing(code, ""))
		fails("7", fmt.Sprint("close with a reason and ", code), 1002, closing(code, "reason"))
	}

	for _, n := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20} {
		add("9", socketCase{name: fmt.Sprint("text of ", n), send: []frame{text(big(n))}, echo: []string{"text:" + big(n)}})
		add("9", socketCase{name: fmt.Sprint("binary of ", n), send: []frame{binaryFrame([]byte(big(n)))}, echo: []string{"binary:" + big(n)}})
	}
	for _, size := range []int{64, 1024, 16 << 10} {
		const n = 1 << 18
		var pieces []frame
		for at := 0; at < n; at += size {
			f := frame{at+size == n, 0, opContinuation, []byte(big(size))}
			if at == 0 {
				f.op = opText
			}
			pieces = append(pieces, f)
		}
		add("9", socketCase{name: fmt.Sprint("fragments of ", size), send: pieces, echo: []string{"text:" + big(n)}})
		add("9", socketCase{name: fmt.Sprint("octets of ", size), send: []frame{text(big(n))}, chop: size, echo: []string{"text:" + big(n)}})
	}
	for _, n := range []int{0, 16, 64, 256, 1024, 4096} {
		c := socketCase{name: fmt.Sprint("100 messages of ", n)}
		for range 100 {
			c.send, c.echo = append(c.send, text(big(n))), append(c.echo, "text:"+big(n))
		}
		add("9", c)
	}

	for _, n := range []int{0, 16, 64, 256, 1024, 4096, 8192, 32768, 131072} {
		words := strings.Repeat("compressible words of a text ", n/29+1)[:n]
		add("12", socketCase{name: fmt.Sprint("deflated text of ", n), deflate: true, send: []frame{deflated(opText, words)}, echo: []string{"text:" + words}})
		noise := make([]byte, n)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		add("12", socketCase{name: fmt.Sprint("deflated noise of ", n), deflate: true, send: []frame{deflated(opBinary, string(noise))}, echo: []string{"binary:" + string(noise)}})
	}
	c := socketCase{name: "100 deflated messages", deflate: true}
	for i := range 100 {
		s := fmt.Sprint("message number ", i, strings.Repeat(" and again", i))
		c.send, c.echo = append(c.send, deflated(opText, s)), append(c.echo, "text:"+s)
	}
	add("12", c)
	whole := deflated(opText, strings.Repeat("in two fragments ", 100))
	half := len(whole.payload) / 2
	add("12", socketCase{name: "deflated in fragments", deflate: true,
		send: []frame{{false, 4, opText, whole.payload[:half]}, {true, 0, opContinuation, whole.payload[half:]}},
		echo: []string{"text:" + strings.Repeat("in two fragments ", 100)}})
	add("12", socketCase{name: "not deflated though it may be", deflate: true, send: []frame{text("plain")}, echo: []string{"text:plain"}})
	return cases
}
