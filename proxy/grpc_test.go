package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcService is a backend that speaks HTTP/2 alone.
type grpcService struct {
	pb.UnimplementedTestServiceServer
	// Closed when a stream of which nothing is asked has begun, and when it ends.
	here, gone chan struct{}
}

func (s *grpcService) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-first", strings.Join(md["x-forwarded-for"], ",")))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-last", strings.Join(md["x-asked"], ","), "x-data-bin", "\x00\xff"))
	if s := r.ResponseStatus; s != nil {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, r.ResponseSize)}}, nil
}

func (s *grpcService) FullDuplexCall(st pb.TestService_FullDuplexCallServer) error {
	for {
		r, err := st.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(r.ResponseParameters) == 0 {
			close(s.here)
			<-st.Context().Done()
			close(s.gone)
			return nil
		}
		if err := st.Send(&pb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// TestGRPC calls a gRPC service through the proxy, plain and over TLS, with a client
// that knows nothing of it.
func TestGRPC(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %v", secure), func(t *testing.T) {
			svc := &grpcService{here: make(chan struct{}), gone: make(chan struct{})}
			var opts []grpc.ServerOption
			if secure {
				cert, err := testAuthority().Certificate("backend.test")
				if err != nil {
					t.Fatal(err)
				}
				opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(cert)))
			}
			cfg := site(grpcBackend(t, svc, opts...))
			cfg.Routes[0].Target.TLS = secure
			r := newRig(t, cfg, func(_ *Options, l *limits) {
				l.patience, l.backendIdle = 20*time.Millisecond, 50*time.Millisecond
			})
			callGRPC(t, svc, grpcClient(t, r))
			eventually(t, "the connection is closed when it is not used", func() bool {
				p := r.srv.snapshot.Load().hosts["app.test"].upstream.pool
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.multi) == 0
			})
		})
	}
}

func callGRPC(t *testing.T, svc *grpcService, client pb.TestServiceClient) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-asked", "me"), 20*time.Second)
	defer cancel()
	var header, trailer metadata.MD

	const large = 1 << 20
	resp, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: large, Payload: &pb.Payload{Body: make([]byte, large)}},
		grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || len(resp.Payload.Body) != large {
		t.Fatalf("unary: %v", err)
	}
	if fmt.Sprint(header["x-first"], trailer["x-last"], trailer["x-data-bin"]) != "[127.0.0.1] [me] [\x00\xff]" {
		t.Errorf("header %v, trailer %v", header, trailer)
	}

	_, err = client.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: 9, Message: "not yet: ü"}}, grpc.Trailer(&trailer))
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "not yet: ü" {
		t.Errorf("status: %v", err)
	}
	if fmt.Sprint(trailer["x-last"]) != "[me]" {
		t.Errorf("trailer of an error: %v", trailer)
	}
	if _, err = client.EmptyCall(ctx, &pb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that is not: %v", err)
	}

	st, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := []*pb.ResponseParameters{{Size: 1}}
	for i := range 10 {
		text := fmt.Sprint("ping ", i)
		if err := st.Send(&pb.StreamingOutputCallRequest{ResponseParameters: ask, Payload: &pb.Payload{Body: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
		if r, err := st.Recv(); err != nil || string(r.Payload.Body) != text {
			t.Fatalf("%v, %v", r, err)
		}
	}
	_ = st.CloseSend()
	if _, err := st.Recv(); err != io.EOF {
		t.Errorf("the end: %v", err)
	}

	gone, leave := context.WithCancel(ctx)
	if st, err = client.FullDuplexCall(gone); err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-svc.here:
	case <-ctx.Done():
		t.Fatal("the message did not arrive")
	}
	leave()
	select {
	case <-svc.gone:
	case <-ctx.Done():
		t.Error("the service did not learn that the caller left")
	}
}

// TestGRPCAway calls a service that is not there, or does not speak HTTP/2.
func TestGRPCAway(t *testing.T) {
	old := backend(t, func(w http.ResponseWriter, r *http.Request) {})
	for name, cfg := range map[string]Config{
		"nobody":           site(netip.MustParseAddrPort("127.0.0.1:1")),
		"HTTP/1.1":         site(old),
		"HTTP/1.1, as TLS": {Routes: []Route{{ID: 1, Host: "app.test", Target: Target{Addr: old, TLS: true}}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newRig(t, cfg).h2()
			c.request(1, strings.Replace(plainGET, "GET", "POST", 1)+"te trailers\ncontent-type application/grpc\n", true)
			if got := c.outcome(1); got != "502" {
				t.Error(got)
			}
		})
	}
}

func TestIsGRPC(t *testing.T) {
	for text, want := range map[string]bool{
		"application/grpc": true, "Application/gRPC+proto": true, "application/grpc;x=y": true,
		"application/grpc-web": false, "application/grpcx": false, "application/json": false, "": false,
	} {
		if got := isGRPC([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestGRPCNotSpoken asks a backend for gRPC that speaks HTTP/1.1 alone. It is not
// passed by for that: strangers could take it away from everybody.
func TestGRPCNotSpoken(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	cfg := site(netip.MustParseAddrPort(s.Listener.Addr().String()))
	cfg.Routes[0].Target.TLS = true
	r := newRig(t, cfg)
	req, _ := http.NewRequest("POST", "https://app.test/", strings.NewReader("x"))
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := r.via2().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if resp.StatusCode != 502 {
		t.Errorf("status %d", resp.StatusCode)
	}
	for _, p := range r.srv.snapshot.Load().pools {
		if !p.usable(r.srv.elapsed()) {
			t.Error("the backend is passed by")
		}
	}
}

// grpcClient makes a client of the service behind app.test.
func grpcClient(t *testing.T, r *rig) pb.TestServiceClient {
	t.Helper()
	trust := r.trust()
	trust.ServerName = "app.test"
	cc, err := grpc.NewClient("passthrough:///app.test", grpc.WithTransportCredentials(credentials.NewTLS(trust)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", r.tls)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return pb.NewTestServiceClient(cc)
}

// TestGRPCConnections counts the connections to a service: one for a crowd that comes
// at once, and never more than the limit, whatever a connection takes.
func TestGRPCConnections(t *testing.T) {
	t.Run("a crowd", func(t *testing.T) {
		const crowd = 3 * maxMultiplexed
		addr := grpcBackend(t, &grpcService{})
		var dials atomic.Int32
		let := make(chan struct{})
		r := newRig(t, site(addr), func(o *Options, _ *limits) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
				dials.Add(1)
				<-let
				return dial(ctx, network, addr)
			}
		})
		client := grpcClient(t, r)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var calls sync.WaitGroup
		for range crowd {
			calls.Go(func() {
				if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{}); err != nil {
					t.Error(err)
				}
			})
		}
		eventually(t, "all of them are being served", func() bool { return r.asking() == crowd })
		close(let)
		calls.Wait()
		if n := dials.Load(); n != 1 {
			t.Errorf("%d connections for %d calls", n, crowd)
		}
	})
	t.Run("the limit", func(t *testing.T) {
		const crowd = 3 * maxMultiplexed
		addr := grpcBackend(t, &grpcService{}, grpc.MaxConcurrentStreams(1))
		var dials atomic.Int32
		r := newRig(t, site(addr), func(o *Options, _ *limits) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
				dials.Add(1)
				return dial(ctx, network, addr)
			}
		})
		client := grpcClient(t, r)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		// Each stream that has echoed holds a connection for itself.
		for i := range maxMultiplexed {
			if err := echoOnce(ctx, client); err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
		}
		var calls sync.WaitGroup
		for range crowd {
			calls.Go(func() {
				if err := echoOnce(ctx, client); status.Code(err) != codes.Unavailable {
					t.Errorf("one too many: %v", err)
				}
			})
		}
		calls.Wait()
		if n := dials.Load(); n != maxMultiplexed {
			t.Errorf("%d connections, the limit is %d", n, maxMultiplexed)
		}
	})
	t.Run("the one who opens panics", func(t *testing.T) {
		addr := grpcBackend(t, &grpcService{})
		var first atomic.Bool
		r := newRig(t, site(addr), func(o *Options, _ *limits) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
				if !first.Swap(true) {
					panic("dialer")
				}
				return dial(ctx, network, addr)
			}
		})
		client := grpcClient(t, r)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{}); err == nil {
			t.Error("the first call met no error")
		}
		if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{}); err != nil {
			t.Errorf("the second call: %v", err)
		}
	})
}

// echoOnce opens a stream that stays open once it has echoed.
func echoOnce(ctx context.Context, client pb.TestServiceClient) error {
	st, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := st.Send(&pb.StreamingOutputCallRequest{ResponseParameters: []*pb.ResponseParameters{{Size: 1}}}); err != nil && err != io.EOF {
		return err
	}
	_, err = st.Recv()
	return err
}

// asking is how many requests in streams the server is at.
func (r *rig) asking() (n int) {
	r.srv.census.mu.Lock()
	defer r.srv.census.mu.Unlock()
	for _, t := range r.srv.census.clients {
		n += int(t.requests.Load())
	}
	return n
}

// grpcBackend serves svc on a plain port.
func grpcBackend(t *testing.T, svc *grpcService, opts ...grpc.ServerOption) netip.AddrPort {
	t.Helper()
	gs := grpc.NewServer(opts...)
	pb.RegisterTestServiceServer(gs, svc)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // awaited below
		defer close(served)
		_ = gs.Serve(ln)
	}()
	t.Cleanup(func() {
		gs.Stop()
		<-served
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}
