package proxy

import "github.com/valyala/fasthttp"

// inform passes a 1xx on as soon as it is here: hints are worth something only before
// the answer (RFC 9110, section 15.2; RFC 8297). Too many end the exchange. 100 is
// swallowed, since Continue meets the expectation of the client and no backend is
// asked for it; so is what a client of HTTP/1.0 would take for its answer.
//
// A 1xx decides nothing: another attempt may follow one that has gone out, with its
// own 1xx, and all of them count. But a kept connection that sent one was alive, and
// what it died of may have been the request.
func (ex *exchange) inform() error {
	if ex.interim++; ex.interim > maxInterim {
		return errAnswer
	}
	a := &ex.answer
	if a.status == fasthttp.StatusContinue || ex.client.Version() == version10 {
		return nil
	}
	if err := ex.client.Inform(a.appendInterim(nil, ex.route)); err != nil {
		ex.left.Store(true)
		return err
	}
	return nil
}

// appendInterim writes the head of a 1xx that the client gets. What a route sets is
// for the answer itself.
func (a *answer) appendInterim(b []byte, r *route) []byte {
	b = a.appendFields(a.appendStatus(b), r, false)
	return append(appendVia(b, version11), "\r\n"...)
}

// Inform is called before an answer is begun, so its bytes come in order.
func (c *conn) Inform(head []byte) error {
	_, err := c.Conn.Write(head)
	return err
}
