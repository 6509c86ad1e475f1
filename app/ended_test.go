package app_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/lab/relay"
)

// TestDownloadsAfterTheEnd has a peer send to a client that has ended its own
// direction, as this server then has its own towards the peer, while the network
// goes dark now and again. Each time a flight is lost, and the peer has to be told
// of what came behind it. It takes as long as if the client had not ended; a sender
// that is not told needs twice that, and more.
func TestDownloadsAfterTheEnd(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	l := newBadLink(t)
	const size = 24 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	ln, err := l.peer.Listen(l.peer.Addr.String() + ":7000")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer ln.Close()
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_, _ = c.Write(data)
			})
		}
	})
	path := relay.Path{Rate: 10 << 20, Delay: 25 * time.Millisecond}
	if err := l.relay.Set(path, path); err != nil {
		t.Fatal(err)
	}
	download := func(ended bool) time.Duration {
		c, err := dialTimeout(l.server, "tcp", portRoute)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if ended {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		var got bytes.Buffer
		for range 3 {
			if _, err := io.CopyN(&got, c, size/5); err != nil {
				t.Fatal(err)
			}
			l.relay.Blackhole(true)
			time.Sleep(60 * time.Millisecond) // more than a flight
			l.relay.Blackhole(false)
		}
		if _, err := io.Copy(&got, c); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Fatalf("%d bytes, or others: %v", got.Len(), err)
		}
		return time.Since(began)
	}
	open := download(false)
	if took := download(true); took > open*7/4 {
		t.Errorf("%s after the end, %s before", took, open)
	} else {
		t.Logf("%s after the end, %s before", took, open)
	}
}
