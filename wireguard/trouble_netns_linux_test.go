package wireguard

import (
	"syscall"
	"testing"

	"gatecontrol/model"
)

// The system of this host does not send: from a network without ways out.
func TestTroubleOfTheSystem(t *testing.T) {
	enterOwnNetwork(t, 1500)
	s := openTestSockets(t)
	c := newCouple(t)
	c.a.sockets.Store(s)
	defer c.a.sockets.Store(nil)
	fail := func() { c.toB.transmit(make([]byte, initiationSize), initiationSize, notECT) }
	fail()
	p := c.toB
	if p.troubles == nil || p.troubles.kinds[unsent].count != 1 || p.txBytes.Load() != 0 {
		t.Fatal("it was sent, or nobody noticed")
	}
	fail()
	fail()
	if trouble := p.Status().Trouble; trouble != (model.Trouble{}) {
		t.Fatalf("a trouble at once: %v", trouble)
	}
	p.troubles.kinds[unsent].first -= instant(troubleTime)
	if trouble := p.Status().Trouble; trouble.Code != model.TroubleUnsent || trouble.Detail != syscall.ENETUNREACH.Error() {
		t.Fatalf("the trouble is %v", trouble)
	}
	p.endpoint.Store(s.at("127.0.0.1"))
	fail()
	if trouble := p.Status().Trouble; p.txBytes.Load() != initiationSize || trouble != (model.Trouble{}) {
		t.Fatalf("the trouble is %v though it was sent", trouble)
	}
	p.endpoint.Store(&whereB)
	if fail(); p.troubles.kinds[unsent].count != 1 {
		t.Error("it does not begin anew")
	}
}
