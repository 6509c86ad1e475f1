package proxy

import (
	"io"
	"time"
)

// send writes the head, together with a small body that is here already. Any
// other body follows from a goroutine of its own, since a backend may answer
// before it has read it all.
func (ex *exchange) send() error {
	if ex.body == nil || ex.held && len(ex.kept.pieces) == 0 { // it is in out
		_, err := ex.bc.Write(ex.out)
		return err
	}
	if !ex.held {
		if small, ok := ex.body.Take(maxInlineBody); ok {
			ex.out = append(ex.out, small...)
			ex.held = true
			ex.copy.add(small)
			ex.copy.end()
			ex.request.replayable = ex.request.idempotent && ex.route.options.Retry != nil
			_, err := ex.bc.Write(ex.out)
			return err
		}
		if err := ex.body.Continue(); err != nil {
			ex.left.Store(true)
			return err
		}
		if ex.route.options.Retry != nil {
			if err := ex.hold(); err != nil {
				return err
			}
		}
	}
	if _, err := ex.bc.Write(ex.out); err != nil {
		return err
	}
	ex.uploading, ex.uploaded, ex.uploadErr = true, make(chan struct{}), nil
	ex.stopping.Store(false)
	go ex.upload(ex.bc) // awaited by endUpload
	return nil
}

// upload sends the body: first what is kept of it, then what is still to come. If
// the client fails, the backend must not take the part for the whole, so its
// connection is closed.
func (ex *exchange) upload(bc *backendConn) {
	defer close(ex.uploaded)
	defer ex.visit.survive("upload", func() {
		ex.uploadErr = errPanic
		_ = bc.Close()
	})
	for i := range ex.kept.pieces {
		if ex.uploadErr = ex.uploadPiece(bc, ex.kept.pieces[i], ex.kept.filled(i)); ex.uploadErr != nil {
			return
		}
	}
	var buf *piece
	if !ex.held {
		buf = ex.srv.pieces.Get().(*piece)
		defer ex.srv.pieces.Put(buf)
	}
	for !ex.held {
		n, err := ex.body.Read(buf[chunkRoom : pieceSize-2])
		if err == io.EOF {
			ex.copy.end()
			break
		}
		if err != nil {
			ex.uploadErr = err
			if !ex.stopping.Load() {
				ex.left.Store(true)
			}
			_ = bc.Close()
			return
		}
		ex.copy.add(buf[chunkRoom : chunkRoom+n])
		if ex.uploadErr = ex.uploadPiece(bc, buf, n); ex.uploadErr != nil {
			return
		}
	}
	if ex.request.chunked {
		end := make([]byte, 0, 64)
		end = append(appendTrailers(append(end, "0\r\n"...), ex.body.Trailer(), ex.route.toBackend), "\r\n"...)
		_, ex.uploadErr = bc.Write(end)
	}
}

// uploadPiece sends n bytes of a body. If that fails, the answer, if there is one,
// tells why.
func (ex *exchange) uploadPiece(bc *backendConn, p *piece, n int) (err error) {
	switch {
	case n == 0:
	case ex.request.chunked:
		_, err = bc.Write(frameChunk(p[:], chunkRoom, n))
	default:
		_, err = bc.Write(p[chunkRoom : chunkRoom+n])
	}
	return err
}

// frameChunk writes the chunk frame around the n bytes at buf[at:] and returns
// the whole chunk.
func frameChunk(buf []byte, at, n int) []byte {
	const hex = "0123456789abcdef"
	buf[at-2], buf[at-1] = '\r', '\n'
	i := at - 2
	for v := n; v > 0; v >>= 4 {
		i--
		buf[i] = hex[v&15]
	}
	return append(buf[i:at+n], '\r', '\n')
}

// endUpload stops the upload and waits for it. It reports whether the backend
// has got the whole body.
func (ex *exchange) endUpload() bool {
	if !ex.uploading {
		return true
	}
	ex.uploading = false
	select {
	case <-ex.uploaded:
		return ex.uploadErr == nil
	default:
	}
	// Either the backend did not want the rest, or the last byte is just on its
	// way: then the goroutine ends by itself.
	ex.stopping.Store(true)
	if !ex.held {
		ex.body.Stop()
		defer ex.body.Stopped()
	}
	select {
	case <-ex.uploaded:
	case <-time.After(100 * time.Millisecond):
		_ = ex.bc.Close()
		<-ex.uploaded
	}
	return ex.uploadErr == nil
}
