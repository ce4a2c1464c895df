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
	// keepAlive is how soon a link ends whose other side does not answer pings. It
	// only frees what the link holds: nothing waits for that.
	keepAlive = 10 * time.Second
	// manyProcesses is when the ordinals of processes without a link are forgotten.
	// Each replica that is started again is a new process.
	manyProcesses = 1024
)

// Server takes the links of other replicas.
type Server struct {
	wire.UnimplementedForwardServer

	cfg      Config
	receiver Receiver
	metrics  metrics
	grpc     *grpc.Server
	all      sync.WaitGroup // what gRPC does not wait for
	closing  chan struct{}

	mu       sync.Mutex
	sources  map[string]*Source // by process
	ordinals map[string]uint64  // of the newest link of each process
	isClosed bool
}

// NewServer returns a Server that hands what it is sent to r. Serve takes links.
func NewServer(cfg Config, r Receiver) *Server {
	sv := &Server{
		cfg: cfg.withDefaults(), receiver: r, metrics: newMetrics(cfg.Registry, "in"), closing: make(chan struct{}),
		sources: make(map[string]*Source), ordinals: make(map[string]uint64),
	}
	sv.grpc = grpc.NewServer(
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.MaxConcurrentStreams(1), grpc.ConnectionTimeout(helloTimeout), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: keepAlive, // without a link
			Time:              keepAlive, Timeout: keepAlive,
		}),
	)
	wire.RegisterForwardServer(sv.grpc, sv)
	return sv
}

// Serve takes links from l until Close, and then returns nil. It closes l.
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

// Close sends the answers that it has, ends all links and waits until nothing of
// them runs any more. At ctx's end it stops waiting for replicas that do not read
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
	sv.grpc.GracefulStop() // until Stop, at the latest
	sv.all.Wait()          // ends with gRPC's connections and listeners
	return ctx.Err()
}

// Link is one link from its hello to its end: gRPC calls it.
func (sv *Server) Link(stream wire.Forward_LinkServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello.GetVersion() != version || hello.Process == "" {
		return status.Errorf(codes.FailedPrecondition, "this replica speaks version %d of the protocol", version)
	}
	if hello.Meets != sv.cfg.Process {
		// The client needs no more than our process.
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

// admit makes s the link of its process, unless a newer one was here before: its
// orders may have been sent again on that.
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
