package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// ForeignPeer is wireguard-go on a TUN device in a namespace, set up with wg
// from wireguard-tools: an implementation and tools that are not ours.
type ForeignPeer struct {
	*Namespace
	Addr  netip.Addr
	iface string
}

// BuildWireGuardGo compiles the wireguard-go command of the module that we pin.
func BuildWireGuardGo(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "wireguard-go")
	Command(t, "go", "build", "-o", bin, "golang.zx2c4.com/wireguard")
	return bin
}

var configLine = regexp.MustCompile(`(?m)^(\w+) = (.*)$`)

// JoinForeign brings up a peer in ns from the text of a client config, as
// wg-quick would, and routes everything through it.
func JoinForeign(t testing.TB, ns *Namespace, wireguardGo, config string) *ForeignPeer {
	t.Helper()
	settings := make(map[string]string)
	for _, m := range configLine.FindAllStringSubmatch(config, -1) {
		settings[m[1]] = m[2]
	}
	// The control socket is found by the name of the interface on the whole
	// machine, whatever the namespace.
	p := &ForeignPeer{Namespace: ns, iface: fmt.Sprintf("w%d%s", os.Getpid()%100000, ns.Name[len(ns.Name)-1:])}
	addresses := strings.Split(settings["Address"], ", ")
	p.Addr = netip.MustParsePrefix(addresses[0]).Addr()

	file := filepath.Join(t.TempDir(), p.iface+".conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	stripped := filepath.Join(t.TempDir(), "stripped.conf")
	if err := os.WriteFile(stripped, []byte(Command(t, "wg-quick", "strip", file)), 0o600); err != nil {
		t.Fatal(err)
	}
	StartProcess(t, ns.Cmd(wireguardGo, "-f", p.iface))
	Eventually(t, 10*time.Second, "the TUN device", func() error {
		_, err := os.Stat("/var/run/wireguard/" + p.iface + ".sock")
		return err
	})
	ns.Run(t, "wg", "setconf", p.iface, stripped)
	for _, address := range addresses {
		ns.Run(t, "ip", "addr", "add", address, "dev", p.iface)
	}
	ns.Run(t, "ip", "link", "set", "mtu", settings["MTU"], "up", "dev", p.iface)
	for prefix := range strings.SplitSeq(settings["AllowedIPs"], ",") {
		prefix := netip.MustParsePrefix(strings.TrimSpace(prefix))
		family := "-4"
		if prefix.Addr().Is6() {
			family = "-6"
		}
		ns.Run(t, "ip", family, "route", "add", prefix.String(), "dev", p.iface)
	}
	return p
}

// Interface returns the name of the peer's TUN device.
func (p *ForeignPeer) Interface() string { return p.iface }

// SentPackets returns how many packets went into the tunnel so far.
func (p *ForeignPeer) SentPackets(t testing.TB) (n int) {
	t.Helper()
	out := p.Run(t, "cat", "/sys/class/net/"+p.iface+"/statistics/tx_packets")
	if _, err := fmt.Sscan(out, &n); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return n
}

// LatestHandshake returns when wg saw the last handshake, zero if never.
func (p *ForeignPeer) LatestHandshake(t testing.TB) time.Time {
	t.Helper()
	fields := strings.Fields(p.Run(t, "wg", "show", p.iface, "latest-handshakes"))
	var sec int64
	if len(fields) == 2 {
		_, _ = fmt.Sscan(fields[1], &sec)
	}
	if sec == 0 {
		return time.Time{}
	}
	return time.Unix(sec, 0)
}

// StartProcess starts cmd, with its output in the log of t, and ends it with t.
func StartProcess(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = &logWriter{t: t}, &logWriter{t: t}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	t.Cleanup(func() { StopProcess(cmd) })
}

// StopProcess asks cmd to end, and ends it if it does not.
func StopProcess(cmd *exec.Cmd) {
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	_ = cmd.Process.Signal(os.Interrupt)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-done
	}
}

// Eventually calls f until it succeeds; after limit it ends the test with the
// last error.
func Eventually(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at another process
	}
}
