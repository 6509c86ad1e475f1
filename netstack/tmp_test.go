package netstack
import ("testing";"time";"math/rand/v2";"os";"golang.zx2c4.com/wireguard/conn")
func TestTmpLoss(t *testing.T) {
	for i := range 3 {
	a := newForeign(t, 2)
	d := started(t, func(o *Options) {
		o.Bind = &lossy{Bind: conn.NewDefaultBind(), rand: rand.New(rand.NewPCG(uint64(i), 0))}
	}, peers(a))
	a.join(d)
	l, _ := d.Listen(80)
	c := a.mustDial("tcp", "10.8.0.1:80")
	s, _ := l.Accept()
	b := time.Now()
	transfer(t, s, c, 2<<20)
	st := d.stack.Stats().TCP
	t.Logf("%s %s: timeouts %d fast %d slow %d sackrec %d retr %d", os.Getenv("GCX"), time.Since(b), st.Timeouts.Value(), st.FastRetransmit.Value(), st.SlowStartRetransmits.Value(), st.SACKRecovery.Value(), st.Retransmits.Value())
	d.Close()
	}
}
