package lab

import (
	"io"
	"net"
	"sync"
	"testing"
)

// EchoTCP answers everything with itself on a TCP port inside ns, until t ends.
func EchoTCP(t testing.TB, ns *Namespace, addr string) {
	t.Helper()
	ln, err := ns.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	ServeEcho(t, ln)
}

// ServeEcho answers everything with itself on every connection of ln, until t
// ends.
func ServeEcho(t testing.TB, ln net.Listener) {
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			wg.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// EchoUDP answers every datagram with itself on a UDP port inside ns, until t
// ends.
func EchoUDP(t testing.TB, ns *Namespace, addr string) {
	t.Helper()
	pc, err := ns.ListenPacket(addr)
	if err != nil {
		t.Fatal(err)
	}
	ServePacketEcho(t, pc)
}

// ServePacketEcho answers every datagram of pc with itself, until t ends.
func ServePacketEcho(t testing.TB, pc net.PacketConn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() { _ = pc.Close(); wg.Wait() })
}
