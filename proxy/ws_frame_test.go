package proxy

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
)

// frame is one WebSocket frame. Its zero value is an unfinished continuation.
type frame struct {
	fin     bool
	rsv, op byte
	payload []byte
}

const (
	opContinuation, opText, opBinary = 0, 1, 2
	opClose, opPing, opPong          = 8, 9, 10
)

func text(s string) frame                { return frame{true, 0, opText, []byte(s)} }
func binaryFrame(b []byte) frame         { return frame{true, 0, opBinary, b} }
func control(op byte, s string) frame    { return frame{true, 0, op, []byte(s)} }
func part(op byte, s string) frame       { return frame{false, 0, op, []byte(s)} }
func last(s string) frame                { return frame{true, 0, opContinuation, []byte(s)} }
func closing(code int, why string) frame { return control(opClose, closePayload(code, why)) }
func closePayload(code int, s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + s
}

// append writes a frame as clients do, masked (RFC 6455, section 5.2).
func (f frame) append(b []byte) []byte {
	first := f.rsv<<4 | f.op
	if f.fin {
		first |= 0x80
	}
	b = append(b, first)
	switch n := len(f.payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], rand.Uint32())
	b = append(b, key[:]...)
	for i, c := range f.payload {
		b = append(b, c^key[i%4])
	}
	return b
}

// readFrame reads one that a server sent.
func readFrame(r *bufio.Reader) (f frame, err error) {
	var head [2]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	f.fin, f.rsv, f.op = head[0]&0x80 != 0, head[0]>>4&7, head[0]&15
	n := uint64(head[1])
	switch {
	case n&0x80 != 0:
		return f, errors.New("a server sent a masked frame")
	case n == 126:
		var b [2]byte
		if _, err = io.ReadFull(r, b[:]); err != nil {
			return f, err
		}
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case n == 127:
		var b [8]byte
		if _, err = io.ReadFull(r, b[:]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	f.payload = make([]byte, n)
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// deflated is one message that permessage-deflate has compressed (RFC 7692,
// section 7.2.1).
func deflated(op byte, s string) frame {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	_, _ = io.WriteString(w, s)
	_ = w.Flush()
	return frame{true, 4, op, bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})}
}

func inflate(b []byte) ([]byte, error) {
	r := flate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	return io.ReadAll(r)
}
