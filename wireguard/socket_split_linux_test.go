package wireguard

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"
)

const testTag = 0x5a

// openSplit is openTestSockets, split. strangers is the other socket of a family.
func openSplit(t *testing.T, family func(*sockets) *socket) (s *sockets, sessions, strangers *socket) {
	t.Helper()
	s = openTestSockets(t)
	strangers = family(s)
	s.split(testTag)
	if sessions = family(s); sessions == strangers {
		t.Fatal("the port is not split")
	}
	for _, socket := range s.each() {
		if err := socket.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return s, sessions, strangers
}

// data is a data message to a receiver with this tag, which ends in mark.
func data(tag, mark byte) []byte {
	m := make([]byte, headerSize+tagSize)
	binary.LittleEndian.PutUint32(m, typeData)
	m[7] = tag
	m[len(m)-1] = mark
	return m
}

func TestSplit(t *testing.T) {
	initiation := make([]byte, initiationSize)
	binary.LittleEndian.PutUint32(initiation, typeInitiation)
	long := make([]byte, 9000)
	copy(long, data(testTag, 0))
	reserved := data(testTag, 0)
	reserved[1] = 1
	tests := []struct {
		name     string
		message  []byte
		sessions bool
	}{
		{"data", data(testTag, 1), true},
		{"long data", long, true},
		{"data to nobody", data(testTag+1, 1), false},
		{"data with reserved bits", reserved, false},
		{"initiation", initiation, false},
		{"one byte", []byte{typeData}, false},
		{"up to the tag", data(testTag, 1)[:7], false},
	}
	families(t, func(t *testing.T, loopback string, family func(*sockets) *socket) {
		s, sessions, strangers := openSplit(t, family)
		from := openTestSockets(t)
		buf := make([]byte, readSize)
		for _, test := range tests {
			want := strangers
			if test.sessions {
				want = sessions
			}
			if err := from.send(test.message, len(test.message), s.at(loopback)); err != nil {
				t.Fatal(err)
			}
			if n, _, _, err := want.receive(buf); err != nil || n != len(test.message) {
				t.Errorf("%s: %d bytes, err = %v", test.name, n, err)
			}
		}
	})
}

// However much strangers send, what sessions send is not lost.
func TestSplitUnderFlood(t *testing.T) {
	families(t, func(t *testing.T, loopback string, family func(*sockets) *socket) {
		s, sessions, strangers := openSplit(t, family)
		from := openTestSockets(t)
		noise := make([]byte, initiationSize)
		binary.LittleEndian.PutUint32(noise, typeInitiation)
		const floods = 20000 // more than strangersBuffer has room for
		for i := range floods {
			if err := from.send(noise, len(noise), s.at(loopback)); err != nil {
				t.Fatal(err)
			}
			if i%200 == 0 {
				m := data(testTag, byte(i/200))
				if err := from.send(m, len(m), s.at(loopback)); err != nil {
					t.Fatal(err)
				}
			}
		}
		buf := make([]byte, readSize)
		for i := range floods / 200 {
			if n, _, _, err := sessions.receive(buf); err != nil || n != headerSize+tagSize || buf[n-1] != byte(i) {
				t.Fatalf("message %d of a session: %d bytes, err = %v", i, n, err)
			}
		}
		if err := strangers.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		kept := 0
		for {
			n, segment, _, err := strangers.receive(buf)
			if err != nil {
				break
			}
			kept += n / segment
		}
		if kept == 0 || kept == floods {
			t.Fatalf("%d of %d messages of strangers were kept; the buffer was to be filled", kept, floods)
		}
	})
}

// A port that is split is still one that nobody else gets.
func TestSplitPortIsTaken(t *testing.T) {
	s := openTestSockets(t)
	s.split(testTag)
	other, err := openSockets(slog.New(slog.DiscardHandler), s.port())
	if err == nil {
		_ = other.close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("err = %v, want EADDRINUSE", err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, socket := range s.each() {
		if _, _, _, err := socket.receive(make([]byte, 100)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("err = %v of a closed socket", err)
		}
	}
}

// The numbers of sessions have the tag that the kernel looks for.
func TestIndexTag(t *testing.T) {
	x := newIndex()
	for range 1000 {
		if n := x.add(entry{}); byte(n>>24) != x.tag {
			t.Fatalf("%#x without %#x", n, x.tag)
		}
	}
}
