package proxy

import "io"

// readBody reads of the body: frame by frame, to the end of the stream.
func (st *h3Stream) readBody(p []byte) (int, error) {
	for st.left == 0 {
		kind, length, err := nextFrame(&st.in)
		switch {
		case err == io.EOF:
			if st.declared > 0 {
				return 0, errLength
			}
			return 0, io.EOF
		case err != nil:
			return 0, err
		case st.trailed && (kind == dataFrame || kind == headersFrame), st.upgraded.Load() && kind == headersFrame:
			return 0, h3Error(h3FrameUnexpected) // RFC 9114, sections 4.1 and 4.4
		case kind == dataFrame:
			if st.declared >= 0 {
				if length > uint64(st.declared) {
					return 0, errLength
				}
				st.declared -= int64(length)
			}
			if st.left = length; st.declared == 0 && st.followed(length) {
				return 0, errLength
			}
			if length > 0 {
				st.idle = 0
			} else if st.idle++; st.idle > maxIdleFrames {
				return 0, h3Error(h3ExcessiveLoad)
			}
		case kind == headersFrame:
			if err := st.readTrailer(length); err != nil {
				return 0, err
			}
		default:
			if err := st.skip(kind, length); err != nil {
				return 0, err
			}
		}
	}
	if uint64(len(p)) > st.left {
		p = p[:st.left]
	}
	n, err := st.in.Read(p)
	st.left -= uint64(n)
	if err == io.EOF {
		err = h3Error(h3FrameError)
	}
	return n, err
}

// followed reports whether more data is here than the rest of the current frame.
func (st *h3Stream) followed(length uint64) bool {
	b := st.in.buffered()
	if uint64(len(b)) <= length {
		return false
	}
	head, more, ok := cutFrame(b[length:])
	return ok && head[0] == dataFrame && more > 0
}

func (st *h3Stream) readTrailer(length uint64) error {
	if length > maxTrailerSize {
		return errMalformed
	}
	section, err := readPayload(&st.in, length, maxTrailerSize)
	if err != nil {
		return err
	}
	for next := st.conn.srv.qpack.Decode(section); !st.trailer.malformed; {
		f, err := next()
		if err == io.EOF {
			st.trailed = true
			return nil
		}
		if err != nil {
			return h3Error(h3DecompressionFailed)
		}
		st.trailer.add(f.Name, f.Value)
	}
	return errMalformed
}

func (st *h3Stream) Trailer() []byte { return st.trailer.lines }

// Take joins the DATA frames in the buffer, in place, if they are the whole body.
func (st *h3Stream) Take(limit int) ([]byte, bool) {
	if st.err != nil || st.left > 0 || st.declared < 0 || st.declared > int64(limit) {
		return nil, false
	}
	total, rest := int64(0), st.in.buffered()
	for len(rest) > 0 {
		head, length, ok := cutFrame(rest)
		if !ok || head[0] != dataFrame || length > uint64(len(rest)-len(head)) {
			return nil, false // not all, or not data alone
		}
		total += int64(length)
		rest = rest[len(head)+int(length):]
	}
	if total != st.declared {
		return nil, false
	}
	have := st.in.buffered()
	end := 0
	for rest := have; len(rest) > 0; {
		head, length, _ := cutFrame(rest)
		data := rest[len(head) : len(head)+int(length)]
		rest = rest[len(head)+int(length):]
		end += copy(have[end:], data)
	}
	st.in.discard(len(have))
	st.declared, st.err = 0, io.EOF
	return have[:end], true
}

// Received reports what has been read along with the head; more may be here, but
// is not seen without waiting for it.
func (st *h3Stream) Received() bool {
	return st.fin || st.left > 0 || len(st.in.buffered()) > 0
}
