package proxy
import ("testing";"net";"bytes";"fmt";"io";"crypto/tls";"github.com/valyala/fasthttp")
func adhocBackend(b *testing.B, size int) string {
	answer := []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n", size) + string(bytes.Repeat([]byte("x"), size)))
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	b.Cleanup(func(){ln.Close()})
	go func() { for { c, err := ln.Accept(); if err != nil {return}; go func(){ defer c.Close(); buf := make([]byte, 16<<10); for { if _, err := c.Read(buf); err != nil {return}; if _, err := c.Write(answer); err != nil {return} } }() } }()
	return ln.Addr().String()
}
func load(b *testing.B, dial func() (net.Conn, error), size int) {
	request := fmt.Appendf(nil, browserHead, "GET", "")
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		c, err := dial()
		if err != nil { b.Error(err); return }
		defer c.Close()
		buf := make([]byte, 64<<10)
		for pb.Next() {
			c.Write(request)
			n := 0; want := 0
			for want == 0 || n < want {
				m, err := c.Read(buf)
				if err != nil { b.Error(err); return }
				if want == 0 { i := bytes.Index(buf[:m], []byte("\r\n\r\n")); want = i+4+size }
				n += m
			}
		}
	})
}
func BenchmarkAdhoc(b *testing.B) {
	for _, size := range []int{1024, 1<<20} {
	for _, sec := range []bool{false, true} {
	b.Run(fmt.Sprintf("ours-%d-%v",size, sec), func(b *testing.B) {
		up := adhocBackend(b, size)
		s := benchServer(b, func() (net.Conn, error) { return net.Dial("tcp", up) })
		p, _ := s.Prepare(manyRoutes(1000)); p.Commit()
		front, _ := net.Listen("tcp", "127.0.0.1:0")
		dial := func() (net.Conn, error) { return net.Dial("tcp", front.Addr().String()) }
		if sec { go s.ServeTLS(front); dial = func() (net.Conn, error) { return tls.Dial("tcp", front.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "host-7.example.test"}) } } else { go s.Serve(front) }
		b.ResetTimer(); load(b, dial, size); b.StopTimer(); s.Close()
	})
	b.Run(fmt.Sprintf("bare-%d-%v",size, sec), func(b *testing.B) {
		up := adhocBackend(b, size)
		hc := &fasthttp.HostClient{Addr: up, MaxConns: 4096, StreamResponseBody: true, DisableHeaderNamesNormalizing: true, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true}
		fs := &fasthttp.Server{NoDefaultServerHeader: true, NoDefaultDate: true, DisableHeaderNamesNormalizing: true, Handler: func(c *fasthttp.RequestCtx) {
			q, r := &c.Request, &c.Response
			q.URI().SetScheme("http")
			q.Header.Del("Connection"); q.Header.Set("X-Forwarded-For", c.RemoteIP().String())
			if err := hc.Do(q, r); err != nil { c.Error(err.Error(), 502); return }
			r.Header.Del("Connection") }}
		front, _ := net.Listen("tcp", "127.0.0.1:0")
		dial := func() (net.Conn, error) { return net.Dial("tcp", front.Addr().String()) }
		if sec { cert,_ := testAuthority().Certificate("host-7.example.test"); go fs.Serve(tls.NewListener(front, &tls.Config{Certificates: []tls.Certificate{*cert}})); dial = func() (net.Conn, error) { return tls.Dial("tcp", front.Addr().String(), &tls.Config{InsecureSkipVerify: true}) } } else { go fs.Serve(front) }
		b.ResetTimer(); load(b, dial, size); b.StopTimer(); front.Close(); fs.Shutdown()
	})
	}}
}
var _ = io.EOF
