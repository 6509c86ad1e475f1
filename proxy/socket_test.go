package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sockets returns both ends of a TCP connection, the first one as the proxy has it.
func sockets(t testing.TB, stall time.Duration) (*socket, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	s := newSocket(near, stall)
	if s.host == nil {
		t.Fatal("a TCP socket of this host is not taken for one")
	}
	return s, far.(*net.TCPConn)
}

// TestSocketCarries sends more than buffers hold in both directions at once.
func TestSocketCarries(t *testing.T) {
	s, far := sockets(t, time.Minute)
	data := make([]byte, 16<<20)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	var both sync.WaitGroup
	send := func(c net.Conn, end func() error) {
		n, err := c.Write(data)
		if n != len(data) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		_ = end()
	}
	receive := func(c net.Conn) {
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes arrived, %v", len(got), err)
		}
	}
	both.Go(func() { send(s, func() error { return closeWrite(s) }) })
	both.Go(func() { send(far, far.CloseWrite) })
	both.Go(func() { receive(s) })
	both.Go(func() { receive(far) })
	both.Wait()
	p := make([]byte, 1)
	if n, err := s.Read(p); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if n, err := s.Read(nil); n != 0 || err != nil {
		t.Errorf("into nothing: %d, %v", n, err)
	}
}

// TestSocketEnds is what callers tell the ends of a connection by.
func TestSocketEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *socket, far *net.TCPConn)
		want error
	}{
		{"deadline", func(s *socket, _ *net.TCPConn) { _ = s.SetReadDeadline(time.Now().Add(time.Millisecond)) }, os.ErrDeadlineExceeded},
		{"closed here", func(s *socket, _ *net.TCPConn) { _ = s.Close() }, net.ErrClosed},
		{"closed there", func(_ *socket, far *net.TCPConn) { _ = far.Close() }, io.EOF},
		{"reset", func(_ *socket, far *net.TCPConn) { _ = far.SetLinger(0); _ = far.Close() }, syscall.ECONNRESET},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, far := sockets(t, time.Minute)
			done := make(chan error)
			go func() {
				_, err := s.Read(make([]byte, 1))
				done <- err
			}()
			tt.end(s, far)
			err := <-done
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if isTimeout(err) != (tt.want == os.ErrDeadlineExceeded) {
				t.Errorf("%v is taken for a timeout, or for none", err)
			}
		})
	}
}

// TestSocketStalls writes to who takes nothing, and then to who is slow.
func TestSocketStalls(t *testing.T) {
	const stall = 100 * time.Millisecond
	s, far := sockets(t, stall)
	data := make([]byte, 32<<20)
	n, err := s.Write(data)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(data) {
		t.Fatalf("nobody reads: %d, %v", n, err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		p := make([]byte, 1<<20)
		for {
			if _, err := io.ReadFull(far, p); err != nil {
				return
			}
			time.Sleep(stall / 16)
		}
	})
	if n, err := s.Write(data); n != len(data) || err != nil {
		t.Errorf("a slow reader: %d, %v", n, err)
	}
	_ = s.Close()
	reading.Wait()
	if _, err := s.Write(data); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
