package proxy

import (
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"gatecontrol/model"
)

// An encoder takes about 1 MiB, so their number is bounded, and each client has a
// share. What finds none free is sent as it is. Event streams live for hours, and
// leave half to the others.
const (
	maxEncoders      = 128
	maxEventEncoders = maxEncoders / 2
)

// Levels and windows that keep an encoder at 1 MiB and are faster than a network:
// about 160 MB/s for zstd, 50 for gzip, 40 for brotli on one core.
const (
	gzipLevel    = 5
	brotliLevel  = 3
	brotliWindow = 18 // 256 KiB
	zstdWindow   = 128 << 10
)

// encoder compresses a body into out, which the owner empties.
type encoder struct {
	w interface {
		io.WriteCloser
		Flush() error
		Reset(io.Writer)
	}
	coding coding
	tally  *tally // of the client that it is counted against
	events bool   // counted among event streams
	out    []byte
}

// gather is an encoder as the io.Writer behind it.
type gather encoder

func (g *gather) Write(p []byte) (int, error) {
	g.out = append(g.out, p...)
	return len(p), nil
}

// encoder takes an encoder, nil if there are too many, or too many of the client.
func (s *Server) encoder(t *tally, c coding, events bool) *encoder {
	all, eventful := s.encoderShares(t)
	if !all.take(1) {
		s.hits.at(limitEncoders)
		return nil
	}
	if events && !eventful.take(1) {
		all.give(1)
		s.hits.at(limitEncoders)
		return nil
	}
	enc, _ := s.encoders[c].Get().(*encoder)
	if enc == nil {
		enc = newEncoder(c)
	}
	enc.tally, enc.events = t, events
	enc.w.Reset((*gather)(enc))
	return enc
}

func (s *Server) encoderShares(t *tally) (all, eventful share) {
	return share{&s.encoding, &t.encoders}, share{&s.eventEncoding, &t.eventEncoders}
}

func newEncoder(c coding) *encoder {
	enc := &encoder{coding: c}
	switch c {
	case gzipCoding:
		enc.w, _ = gzip.NewWriterLevel(nil, gzipLevel) // the level is valid
	case brotliCoding:
		enc.w = brotli.NewWriterOptions(nil, brotli.WriterOptions{Quality: brotliLevel, LGWin: brotliWindow})
	default:
		// One at a time needs no goroutines of its own.
		enc.w, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true)) // the options are valid
	}
	return enc
}

// release gives the encoder back.
func (enc *encoder) release(s *Server) {
	if enc.out = enc.out[:0]; cap(enc.out) > 4*pieceSize {
		enc.out = nil
	}
	enc.w.Reset(nil) // keeps nothing of who used it alive
	all, eventful := s.encoderShares(enc.tally)
	if enc.tally = nil; enc.events {
		eventful.give(1)
	}
	all.give(1)
	s.encoders[enc.coding].Put(enc)
}

// encodeTo writes the body to w, compressed. What has arrived leaves before the
// backend is waited for: an event is of no use later.
func (st *answerStream) encodeTo(w io.Writer) (total int64, err error) {
	buf := st.srv.pieces.Get().(*piece)
	defer st.srv.pieces.Put(buf)
	enc := st.encoder
	for {
		n, rerr := st.Read(buf[:])
		if n > 0 {
			if _, err = enc.w.Write(buf[:n]); err == nil && !st.bc.hasMore() {
				err = enc.w.Flush()
			}
		} else if rerr == io.EOF {
			err = enc.w.Close()
		}
		if err != nil {
			return total, err
		}
		if len(enc.out) > 0 {
			m, err := w.Write(enc.out)
			total += int64(m)
			st.visit.record.Size += int64(m)
			if err != nil {
				st.visit.record.Cut = model.CutByClient
				return total, err
			}
			enc.out = enc.out[:0]
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}
