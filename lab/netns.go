// Package lab is the test harness: real counterparts for whole-program tests.
// Only tests import it.
package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace: a host of its own on this machine.
type Namespace struct {
	Name string
	fd   int
}

// NeedRoot skips a test, by name, where network namespaces cannot be made: as
// another user than root, or without the programs of these Debian packages.
func NeedRoot(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s (Debian: iproute2, wireguard-tools)", p)
		}
	}
}

// NewNamespace makes a namespace with loopback up. It is removed with t.
func NewNamespace(t testing.TB, role string) *Namespace {
	t.Helper()
	name := fmt.Sprintf("gc%d-%s", os.Getpid(), role)
	Command(t, "ip", "netns", "add", name)
	t.Cleanup(func() { Command(t, "ip", "netns", "del", name) })
	fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open namespace %s: %v", name, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	ns := &Namespace{Name: name, fd: fd}
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// Link joins two namespaces with a veth pair, each end named after the other's
// role, with the given CIDR addresses.
func Link(t testing.TB, a *Namespace, addrA, ifA string, b *Namespace, addrB, ifB string) {
	t.Helper()
	Command(t, "ip", "link", "add", ifA, "netns", a.Name, "type", "veth", "peer", "name", ifB, "netns", b.Name)
	for _, end := range []struct {
		ns         *Namespace
		name, addr string
	}{{a, ifA, addrA}, {b, ifB, addrB}} {
		end.ns.Run(t, "ip", "addr", "add", end.addr, "dev", end.name)
		end.ns.Run(t, "ip", "link", "set", end.name, "up")
	}
}

// Cmd returns a command that will run inside ns.
func (ns *Namespace) Cmd(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns.Name, name}, args...)...)
}

// Run runs a command inside ns and returns what it printed.
func (ns *Namespace) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return Command(t, "ip", append([]string{"netns", "exec", ns.Name, name}, args...)...)
}

// Do runs f with the calling goroutine inside ns. Sockets that f opens stay in
// ns; goroutines that f starts do not.
func (ns *Namespace) Do(f func()) error {
	done := make(chan error)
	go func() { // ends before Do returns; its thread is thrown away if it cannot go back
		runtime.LockOSThread()
		back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(back)
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
		if err := unix.Setns(back, unix.CLONE_NEWNET); err == nil {
			runtime.UnlockOSThread()
		}
		done <- nil
	}()
	return <-done
}

// DialContext connects from inside ns; the address must be a literal.
func (ns *Namespace) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if nerr := ns.Do(func() { conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr) }); nerr != nil {
		return nil, nerr
	}
	return conn, err
}

// DialTo returns a dialer from inside ns that reaches addr, whatever it is asked
// for: what a resolver needs that shall use one server.
func (ns *Namespace) DialTo(addr string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return ns.DialContext(ctx, network, addr)
	}
}

// DialVia returns a dialer from inside ns that keeps the port it is asked for
// and replaces the host.
func (ns *Namespace) DialVia(host string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		return ns.DialContext(ctx, network, net.JoinHostPort(host, port))
	}
}

// Listen opens a TCP port inside ns.
func (ns *Namespace) Listen(addr string) (ln net.Listener, err error) {
	if nerr := ns.Do(func() { ln, err = net.Listen("tcp", addr) }); nerr != nil {
		return nil, nerr
	}
	return ln, err
}

// ListenPacket opens a UDP port inside ns.
func (ns *Namespace) ListenPacket(addr string) (pc net.PacketConn, err error) {
	if nerr := ns.Do(func() { pc, err = net.ListenPacket("udp", addr) }); nerr != nil {
		return nil, nerr
	}
	return pc, err
}

// Command runs a command to its end; a failure ends the test with its output.
func Command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
