package proxy

import (
	"io"

	"github.com/quic-go/quic-go/quicvarint"
)

// Kinds of unidirectional streams (RFC 9114, section 6.2; RFC 9204, section 4.2).
const (
	controlStream = 0x0
	pushStream    = 0x1
	encoderStream = 0x2
	decoderStream = 0x3
)

// Kinds of frames (RFC 9114, section 7.2).
const (
	dataFrame        = 0x0
	headersFrame     = 0x1
	cancelPushFrame  = 0x3
	settingsFrame    = 0x4
	pushPromiseFrame = 0x5
	goawayFrame      = 0x7
	maxPushFrame     = 0xd
)

// Settings (RFC 9114, section 7.2.4.1; RFC 9220, section 3).
const (
	settingMaxFieldSection = 0x6
	settingConnectProtocol = 0x8
)

const (
	// uniBuffer is the buffer of a unidirectional stream, which lives as long as the
	// connection and on which little happens.
	uniBuffer = 256

	// maxSettings bounds a SETTINGS frame; clients send a dozen.
	maxSettings = 1 << 10
	// maxSettingsCount bounds its settings, whose repetition is looked for.
	maxSettingsCount = 64
)

// h3Error is what ends an HTTP/3 connection: a code of section 8.1.
type h3Error uint64

func (e h3Error) Error() string { return "HTTP/3 connection error" }

// readVarint takes a variable-length integer off in. io.EOF is the end of the
// stream right before it.
func readVarint(in *source) (uint64, error) {
	for {
		if b := in.buffered(); len(b) > 0 && len(b) >= 1<<(b[0]>>6) {
			v, n, _ := quicvarint.Parse(b)
			in.discard(n)
			return v, nil
		}
		had := len(in.buffered()) > 0
		if err := in.fill(firstBuffer); err != nil {
			if err == io.EOF && had {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
}

// nextFrame takes the head of a frame off in. io.EOF is the end of the stream
// where a frame may end.
func nextFrame(in *source) (kind, length uint64, err error) {
	if kind, err = readVarint(in); err != nil {
		return 0, 0, incomplete(err, io.EOF)
	}
	length, err = readVarint(in)
	return kind, length, incomplete(err, h3Error(h3FrameError))
}

// incomplete maps the end of a stream: atEnd where it may be, and within an
// integer or frame the error of that (RFC 9114, section 7.1).
func incomplete(err, atEnd error) error {
	switch err {
	case io.EOF:
		return atEnd
	case io.ErrUnexpectedEOF:
		return h3Error(h3FrameError)
	}
	return err
}

func appendFrameHead(b []byte, kind uint64, length int) []byte {
	return quicvarint.Append(quicvarint.Append(b, kind), uint64(length))
}

// discardFrame skips the payload of a frame that means nothing to us.
func discardFrame(in *source, length uint64) error {
	for length > 0 {
		if n := min(length, uint64(len(in.buffered()))); n > 0 {
			in.discard(int(n))
			length -= n
			continue
		}
		if err := in.fill(firstBuffer); err != nil {
			return incomplete(err, h3Error(h3FrameError))
		}
	}
	return nil
}

// readPayload waits for the whole payload of a short frame. The bytes are valid
// until the source is filled again.
func readPayload(in *source, length uint64, limit int) ([]byte, error) {
	if length > uint64(limit) {
		return nil, h3Error(h3ExcessiveLoad)
	}
	for uint64(len(in.buffered())) < length {
		if err := in.fill(limit); err != nil {
			return nil, incomplete(err, h3Error(h3FrameError))
		}
	}
	b := in.buffered()[:length]
	in.discard(int(length))
	return b, nil
}

// readSettings checks a SETTINGS frame: no setting twice, and none that HTTP/2
// had and HTTP/3 has not.
func readSettings(in *source, length uint64) error {
	b, err := readPayload(in, length, maxSettings)
	if err != nil {
		return err
	}
	var seen [maxSettingsCount]uint64
	for count := 0; len(b) > 0; count++ {
		id, n, err := quicvarint.Parse(b)
		if err != nil {
			return h3Error(h3FrameError)
		}
		value, m, err := quicvarint.Parse(b[n:])
		if err != nil {
			return h3Error(h3FrameError)
		}
		b = b[n+m:]
		switch {
		case count == maxSettingsCount:
			return h3Error(h3ExcessiveLoad)
		case id == 0x0, id >= 0x2 && id <= 0x5, id == settingConnectProtocol && value > 1:
			return h3Error(h3SettingsError)
		}
		for _, other := range seen[:count] {
			if other == id {
				return h3Error(h3SettingsError)
			}
		}
		seen[count] = id
	}
	return nil
}

// readID checks a frame that holds one integer.
func readID(in *source, length uint64) error {
	b, err := readPayload(in, length, 8)
	if err != nil {
		return h3Error(h3FrameError)
	}
	if _, n, err := quicvarint.Parse(b); err != nil || n != len(b) {
		return h3Error(h3FrameError)
	}
	return nil
}

// readEncoder reads the client's QPACK encoder stream. Without a dynamic table
// there is one instruction that it may hold: that there is none (RFC 9204,
// section 4.3.1).
func readEncoder(in *source) error {
	for {
		for _, b := range in.buffered() {
			if b != 0x20 {
				return h3Error(h3EncoderStreamError)
			}
		}
		in.discard(len(in.buffered()))
		if err := in.fill(firstBuffer); err != nil {
			return err
		}
	}
}
