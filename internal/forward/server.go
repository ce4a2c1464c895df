package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"flashsale/internal/forward/wire"
)

const (
	// keepAlive bounds how long a link lasts whose other side does not answer pings. It
	// only frees resources.
	keepAlive = 10 * time.Second
	// manyProcesses is when the ordinals of processes without a link are removed: each
	// restarted replica is a new process.
	manyProcesses = 1024
)

// Server accepts the links of other replicas.
type Server struct {
	wire.UnimplementedForwardServer

	cfg      Config
	receiver Receiver
	metrics  metrics
	grpc     *grpc.Server
	all      sync.WaitGroup // goroutines that gRPC does not wait for
	closing  chan struct{}

	mu       sync.Mutex
	sources  map[string]*Source // by process
	ordinals map[string]uint64  // of the newest link of each process
	isClosed bool
}

// NewServer returns a Server that passes orders to r once Serve runs.
func NewServer(cfg Config, r Receiver) *Server {
	sv := &Server{
		cfg: cfg.withDefaults(), receiver: r, metrics: newMetrics(cfg.Registry, "in"), closing: make(chan struct{}),
		sources: make(map[string]*Source), ordinals: make(map[string]uint64),
	}
	sv.grpc = grpc.NewServer(
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.MaxConcurrentStreams(1), grpc.ConnectionTimeout(helloTimeout), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: keepAlive, // for a connection without a link
			Time:              keepAlive, Timeout: keepAlive,
		}),
	)
	wire.RegisterForwardServer(sv.grpc, sv)
	return sv
}

// Serve accepts links from l until Close, and then returns nil. It closes l.
func (sv *Server) Serve(l net.Listener) error {
	sv.mu.Lock()
	if sv.isClosed {
		sv.mu.Unlock()
		return l.Close()
	}
	g := newGate(l, sv.cfg, &sv.all)
	sv.mu.Unlock()
	if err := sv.grpc.Serve(g); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Close sends the answers that are ready, ends all links and waits for their
// goroutines. When ctx ends, it closes the connections to replicas that do not read
// their answers, and returns ctx's error.
func (sv *Server) Close(ctx context.Context) error {
	sv.mu.Lock()
	if !sv.isClosed {
		sv.isClosed = true
		close(sv.closing)
	}
	sv.mu.Unlock()

	stop := context.AfterFunc(ctx, sv.grpc.Stop)
	defer stop()
	sv.grpc.GracefulStop() // returns after Stop at the latest
	sv.all.Wait()
	return ctx.Err()
}

// Link serves one link from its hello to its end. gRPC calls it.
func (sv *Server) Link(stream wire.Forward_LinkServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello.GetVersion() != version || hello.Process == "" {
		return status.Errorf(codes.FailedPrecondition, "this replica has version %d of the protocol", version)
	}
	if hello.Meets != sv.cfg.Process {
		// Our process name tells the client that the peer it seeks is gone.
		return stream.Send(&wire.FromSeller{Hello: sv.cfg.hello("", 0)})
	}
	s := newSource(hello, sv.cfg.Limit)
	if !sv.admit(s) {
		return errReplaced
	}
	defer sv.leave(s)
	sv.all.Go(func() { s.end(s.read(stream, sv.receiver, sv.metrics)) })

	ticks, stop := sv.cfg.clock.ticker(sv.cfg.Tick)
	defer stop()
	return s.write(stream, sv.cfg.hello("", 0), ticks, sv.closing)
}

// admit makes s the link of its process. It returns false if a newer link of that
// process was admitted: the orders of s may have been resent on it.
func (sv *Server) admit(s *Source) bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	process := s.hello.Process
	if s.hello.Ordinal <= sv.ordinals[process] {
		return false
	}
	if len(sv.ordinals) >= manyProcesses {
		for process := range sv.ordinals {
			if sv.sources[process] == nil {
				delete(sv.ordinals, process)
			}
		}
	}
	if older := sv.sources[process]; older != nil {
		older.end(errReplaced)
	}
	sv.ordinals[process], sv.sources[process] = s.hello.Ordinal, s
	sv.metrics.links.Inc()
	return true
}

func (sv *Server) leave(s *Source) {
	s.end(nil)
	sv.mu.Lock()
	defer sv.mu.Unlock()
	if sv.sources[s.hello.Process] == s {
		delete(sv.sources, s.hello.Process)
	}
	sv.metrics.links.Dec()
}
