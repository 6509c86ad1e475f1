package netstack

import (
	"net/netip"
	"os"
	"reflect"
	"sync"
	"testing"
	"unsafe"

	"golang.zx2c4.com/wireguard/tun"
	bundled "golang.zx2c4.com/wireguard/tun/netstack"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// quietTUN is wireguard-go's interface with a network stack behind it. Its own
// Close closes the channel to which goroutines of the stack still write, which
// ends the process; this one ends the stack before.
type quietTUN struct {
	tun.Device
	stack *stack.Stack

	mu     sync.RWMutex // held for reading while packets go to the stack
	closed bool
}

// newTUN makes a network stack with these addresses, for wireguard-go.
func newTUN(t testing.TB, addrs ...netip.Addr) (tun.Device, *bundled.Net) {
	t.Helper()
	inner, net, err := bundled.CreateNetTUN(addrs, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	return &quietTUN{Device: inner, stack: stackOf(net)}, net
}

// stackOf returns what there is no other access to.
func stackOf(net *bundled.Net) *stack.Stack {
	field := reflect.ValueOf(net).Elem().FieldByName("stack")
	return *(**stack.Stack)(unsafe.Pointer(field.UnsafeAddr()))
}

func (q *quietTUN) Write(packets [][]byte, offset int) (int, error) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return 0, os.ErrClosed
	}
	return q.Device.Write(packets, offset)
}

func (q *quietTUN) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.stack.Destroy()
	return q.Device.Close()
}
