//go:build !linux

package proxy

import "net"

// boundUnsent leaves it to the kernel how much it takes for a client that does not
// read.
func boundUnsent(net.Conn) {}
