package proxy

import (
	"errors"
	"os"
	"strconv"
	"time"
	"unsafe"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go/quicvarint"
)

// firstPacket is about what one packet carries: quic-go copies a write that is no
// longer, and sends longer ones from where they are.
const firstPacket = 1200

func (st *h3Stream) WriteHead(status int, fields []field, end, flush bool) error {
	st.block = st.block[:0]
	_ = st.encoder.Close() // the start of a section; the buffer cannot fail
	var buf [3]byte
	_ = st.encoder.WriteField(qpack.HeaderField{Name: ":status", Value: asText(strconv.AppendInt(buf[:0], int64(status), 10))})
	st.appendSection(fields)
	if end {
		return st.sendEnd()
	}
	if flush {
		return st.send(nil)
	}
	return nil
}

// appendSection encodes fields behind what is in block, and frames that.
func (st *h3Stream) appendSection(fields []field) {
	for i := range fields {
		_ = st.encoder.WriteField(qpack.HeaderField{Name: asText(fields[i].name), Value: asText(fields[i].value)})
	}
	st.out = appendFrameHead(st.out, headersFrame, len(st.block))
	st.out = append(st.out, st.block...)
}

// asText is b as a string for an encoder, which keeps none.
func asText(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (st *h3Stream) WriteTrailer(fields []field) error {
	st.block = st.block[:0]
	_ = st.encoder.Close()
	st.appendSection(fields)
	return st.sendEnd()
}

func (st *h3Stream) WriteBody(p []byte, end bool) error {
	if len(p) > 0 {
		st.out = appendFrameHead(st.out, dataFrame, len(p))
		// What fits the packet that begins with this goes along with it.
		n := min(len(p), max(0, firstPacket-len(st.out)))
		st.out = append(st.out, p[:n]...)
		if err := st.send(p[n:]); err != nil {
			return err
		}
	}
	if end {
		return st.sendEnd()
	}
	return nil
}

func (st *h3Stream) FallBack() { st.abort(h3VersionFallback) }

func (st *h3Stream) sendEnd() error {
	if err := st.send(nil); err != nil {
		return err
	}
	st.sent.Store(true) // before the context of the stream ends, which Watch looks at
	return st.str.Close()
}

// send writes what is in out, and p behind it.
func (st *h3Stream) send(p []byte) error {
	if len(st.out) > 0 {
		err := st.write(st.out)
		st.out = st.out[:0]
		if err != nil {
			return err
		}
	}
	if len(p) > 0 {
		return st.write(p)
	}
	return nil
}

// write ends only when the client has taken nothing for the stall limit.
func (st *h3Stream) write(p []byte) error {
	stall := st.conn.srv.limits.stall
	for {
		now := time.Now()
		if st.writeBy.Sub(now) < stall {
			st.writeBy = now.Add(stall + stall/8)
			_ = st.str.SetWriteDeadline(st.writeBy)
		}
		n, err := st.str.Write(p)
		if err == nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		p = p[n:]
	}
}

// cutFrame reads the head of a frame at the start of b.
func cutFrame(b []byte) (head []byte, length uint64, ok bool) {
	_, n, err := quicvarint.Parse(b)
	if err != nil {
		return nil, 0, false
	}
	length, m, err := quicvarint.Parse(b[n:])
	return b[:n+m], length, err == nil
}
