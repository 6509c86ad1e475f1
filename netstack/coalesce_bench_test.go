package netstack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
)

// bulkBatch is 45 packets of 1420 bytes, of flows that take turns.
func bulkBatch(flows int) (batch [][]byte, bytes int64) {
	shapes := make([]tcpShape, flows)
	for i := range shapes {
		shapes[i] = tcpShape{flags: flagACK, options: 12, ports: uint32(i), payload: make([]byte, 1368)}
		for j := range shapes[i].payload {
			shapes[i].payload[j] = byte(rand.Uint32())
		}
	}
	for i := range 45 {
		s := &shapes[i%flows]
		batch = append(batch, s.build())
		bytes += int64(len(batch[i]))
		s.seq += uint32(len(s.payload))
	}
	return batch, bytes
}

// sinkDispatcher receives what gVisor's own implementation delivers.
type sinkDispatcher struct{ packets int }

func (s *sinkDispatcher) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {
	s.packets++
}
func (*sinkDispatcher) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

func BenchmarkCoalescer(b *testing.B) {
	for _, flows := range []int{1, 8, 45} {
		batch, size := bulkBatch(flows)
		b.Run(fmt.Sprintf("ours/%d", flows), func(b *testing.B) {
			var c coalescer
			packets := 0
			deliver := func(pkt *stack.PacketBuffer) { packets++; pkt.DecRef() }
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				c.run(batch, deliver)
			}
			b.ReportMetric(float64(packets)/float64(b.N), "packets")
		})
		b.Run(fmt.Sprintf("gvisor/%d", flows), func(b *testing.B) {
			var sink sinkDispatcher
			g := gro.GRO{Dispatcher: &sink}
			g.Init(true)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range batch {
					pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(p)})
					pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
					g.Enqueue(pkt)
					pkt.DecRef()
				}
				g.Flush()
			}
			b.ReportMetric(float64(sink.packets)/float64(b.N), "packets")
		})
	}
}
