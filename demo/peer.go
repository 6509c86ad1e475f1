// Package demo is a second WireGuard device in userspace that joins a server
// with an ordinary client config and serves a small page. It shows a new user
// that a request really passes the tunnel, and stands in tests for a client
// that is not ours: it uses wireguard-go's own network stack, none of ours. It
// imports nothing of ours.
package demo

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// Peer is a joined device.
type Peer struct {
	Addr  netip.Addr // the first tunnel address
	Addr6 netip.Addr // the first one of IPv6; invalid: none
	dev   *device.Device
	net   *netstack.Net
}

// Join brings up a device from the text of a client config, as wg-quick would
// take it. It does not wait for a handshake; the first packet starts one.
func Join(ctx context.Context, config string) (*Peer, error) {
	c, err := parse(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("client config: %w", err)
	}
	inner, stack, err := netstack.CreateNetTUN(c.addrs, c.dns, c.mtu)
	if err != nil {
		return nil, fmt.Errorf("network stack: %w", err)
	}
	dev := device.NewDevice(&gate{Device: inner}, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	p := &Peer{Addr: c.addrs[0], dev: dev, net: stack}
	if i := slices.IndexFunc(c.addrs, netip.Addr.Is6); i >= 0 {
		p.Addr6 = c.addrs[i]
	}
	if err := dev.IpcSet(c.uapi.String()); err != nil {
		p.Close()
		return nil, fmt.Errorf("device: %w", err)
	}
	if err := dev.Up(); err != nil {
		p.Close()
		return nil, fmt.Errorf("device: %w", err)
	}
	return p, nil
}

// gate keeps packets from the network stack once it is closed. wireguard-go's
// interface closes the channel to which goroutines of its stack write; one that
// still answers a packet then would end the process.
type gate struct {
	tun.Device

	mu     sync.RWMutex // held for reading while packets go to the stack
	closed bool
}

// quietTime is how long the stack has to answer what it was given.
const quietTime = 50 * time.Millisecond

func (g *gate) Write(packets [][]byte, offset int) (int, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return 0, os.ErrClosed
	}
	return g.Device.Write(packets, offset)
}

func (g *gate) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	time.Sleep(quietTime)
	return g.Device.Close()
}

// Close leaves the tunnel.
func (p *Peer) Close() { p.dev.Close() }

// Listen opens a TCP port on the peer's tunnel address.
func (p *Peer) Listen(port uint16) (net.Listener, error) {
	return p.net.ListenTCPAddrPort(netip.AddrPortFrom(p.Addr, port))
}

// ListenPacket opens a UDP port on the peer's tunnel address.
func (p *Peer) ListenPacket(port uint16) (net.PacketConn, error) {
	return p.ListenPacketAt(netip.AddrPortFrom(p.Addr, port))
}

// ListenPacketAt opens a UDP port on any of the peer's tunnel addresses.
func (p *Peer) ListenPacketAt(addr netip.AddrPort) (net.PacketConn, error) {
	return p.net.ListenUDPAddrPort(addr)
}

// DialContext connects through the tunnel, resolving names with the resolvers
// of the config.
func (p *Peer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return p.net.DialContext(ctx, network, addr)
}

// Lookup resolves a name with the resolvers of the config.
func (p *Peer) Lookup(ctx context.Context, host string) ([]string, error) {
	return p.net.LookupContextHost(ctx, host)
}

// config is what Join needs of a client config (wg-quick(8), wg(8)).
type config struct {
	addrs []netip.Addr
	dns   []netip.Addr
	mtu   int
	uapi  strings.Builder // the device part, as its configuration protocol spells it
}

func parse(ctx context.Context, text string) (*config, error) {
	c := &config{mtu: device.DefaultMTU}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		key, value, found := strings.Cut(line, "=")
		if !found {
			continue
		}
		if err := c.set(ctx, strings.TrimSpace(key), strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.TrimSpace(key), err)
		}
	}
	if len(c.addrs) == 0 {
		return nil, fmt.Errorf("no Address")
	}
	return c, nil
}

func (c *config) set(ctx context.Context, key, value string) error {
	switch key {
	case "Address":
		for part := range strings.SplitSeq(value, ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(part))
			if err != nil {
				return err
			}
			c.addrs = append(c.addrs, p.Addr())
		}
	case "DNS":
		for part := range strings.SplitSeq(value, ",") {
			a, err := netip.ParseAddr(strings.TrimSpace(part))
			if err != nil {
				return err
			}
			c.dns = append(c.dns, a)
		}
	case "MTU":
		n, err := strconv.Atoi(value)
		c.mtu = n
		return err
	case "PrivateKey":
		return c.key("private_key", value)
	case "PublicKey":
		return c.key("public_key", value)
	case "PresharedKey":
		return c.key("preshared_key", value)
	case "AllowedIPs":
		for part := range strings.SplitSeq(value, ",") {
			fmt.Fprintf(&c.uapi, "allowed_ip=%s\n", strings.TrimSpace(part))
		}
	case "PersistentKeepalive":
		fmt.Fprintf(&c.uapi, "persistent_keepalive_interval=%s\n", value)
	case "Endpoint":
		host, port, err := net.SplitHostPort(value)
		if err != nil {
			return err
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return err
		}
		fmt.Fprintf(&c.uapi, "endpoint=%s\n", net.JoinHostPort(addrs[0].Unmap().String(), port))
	}
	return nil
}

func (c *config) key(name, value string) error {
	raw, err := base64.StdEncoding.DecodeString(value)
	if err != nil || len(raw) != 32 {
		return fmt.Errorf("not a key")
	}
	fmt.Fprintf(&c.uapi, "%s=%s\n", name, hex.EncodeToString(raw))
	return nil
}
