package netstack

import (
	"io"
	"net"
	"testing"
	"time"
)

// A peer that has said all it will say still gets the whole answer, however
// slowly it reads.
func TestExitDrains(t *testing.T) {
	t.Parallel()
	w, d, a, _ := behindExit(t)
	c := a.mustDial("tcp", "1.1.1.1:80")
	defer c.Close()
	s, err := w.tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, c, s, 1000) // ends with the peer's FIN
	const size = 2 << 20
	written := make(chan error, 1)
	go func() { // ends when the peer has read enough, or the deadline comes
		_ = s.SetWriteDeadline(time.Now().Add(patience))
		_, err := s.Write(make([]byte, size))
		_ = s.Close()
		written <- err
	}()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.Copy(io.Discard, slowReader{c})
	if werr := <-written; err != nil || werr != nil || got != size {
		t.Fatalf("%d of %d bytes: %v, %v", got, size, err, werr)
	}
	eventually(t, "end of the flow", func() bool { return d.Status().Exit == ExitStatus{} })
}

// slowReader reads little at a time, with a rest after each.
type slowReader struct{ net.Conn }

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Conn.Read(p[:min(len(p), 16<<10)])
}
