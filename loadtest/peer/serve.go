package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"flashsale/internal/httpapi"
	"flashsale/internal/stock"
)

// ServeConfig configures a replica of a rival. The tags are those of a command's flags.
type ServeConfig struct {
	Peer    string `arg:""`
	Addr    string `required:""`
	Replica string `required:""`
	// Pool is the number of connections to the store.
	Pool int `default:"0"`
	// MySQLDSN, EtcdEndpoints and RedisAddr are used by the peers that need them.
	MySQLDSN      string   `name:"mysql-dsn" env:"FLASHSALE_MYSQL_DSN"`
	EtcdEndpoints []string `name:"etcd-endpoints"`
	RedisAddr     string   `name:"redis"`
	// AdminToken and JWTSecret authenticate the callers.
	AdminToken string    `required:"" env:"FLASHSALE_ADMIN_TOKEN"`
	JWTSecret  string    `name:"jwt-secret" required:"" env:"FLASHSALE_JWT_SECRET"`
	Log        io.Writer `kong:"-"`
}

// Servers are what a rival is opened with.
type Servers struct {
	ServeConfig
	DB     *stock.DB // nil if the peer has no database
	Logger *slog.Logger
}

// The service's own time-outs and bounds.
const (
	requestTimeout    = 5 * time.Second
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = requestTimeout + 10*time.Second
	idleTimeout       = 2 * time.Minute
	drainTimeout      = 10 * time.Second
	maxHeaderBytes    = 16 << 10

	// paymentWindow is how long an order stays reserved: the service's default.
	paymentWindow = 15 * time.Minute
	startTimeout  = 30 * time.Second
	closeTimeout  = 10 * time.Second
)

// gcPercent is the service's own setting.
const gcPercent = 150

// Serve serves orders until ctx ends, and then finishes those in progress.
func Serve(ctx context.Context, cfg ServeConfig) (err error) {
	debug.SetGCPercent(gcPercent)
	p, err := Find(cfg.Peer)
	if err != nil {
		return err
	}
	if p.open == nil {
		return fmt.Errorf("peer %s is a strategy of the service; run api serve --strategy=%s", p.Name, p.Ways[0].Strategy)
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	defer func() { _ = listener.Close() }() // the server closes it first
	logger := slog.New(slog.NewJSONHandler(cfg.Log, &slog.HandlerOptions{Level: slog.LevelWarn})).With("replica", cfg.Replica)
	servers := Servers{ServeConfig: cfg, Logger: logger}
	if p.Store == MySQL {
		if servers.DB, err = openDatabase(ctx, p.Name, cfg); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, servers.DB.Close()) }()
	}
	orders, err := p.open(ctx, servers)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, orders.close(end))
	}()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	handler, err := httpapi.New(httpapi.Config{
		Orders: orders, Stock: servers.DB, Ready: orders.ready, Replica: cfg.Replica, RequestTimeout: requestTimeout,
		JWTSecret: []byte(cfg.JWTSecret), AdminToken: cfg.AdminToken, Registry: registry, Logger: servers.Logger,
	})
	if err != nil {
		return err
	}
	return serve(ctx, listener, handler, servers.Logger)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return errors.Join(fmt.Errorf("drain: %w", err), server.Close())
	}
	return nil
}

// openDatabase creates the service's tables and binds them to this peer, so that the
// service's own replicas refuse to use them.
func openDatabase(ctx context.Context, name string, cfg ServeConfig) (*stock.DB, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	db, err := stock.Open(cfg.MySQLDSN, cfg.Pool)
	if err != nil {
		return nil, fmt.Errorf("--mysql-dsn: %w", err)
	}
	err = db.Migrate(ctx)
	if err == nil {
		err = db.Bind(ctx, stock.Binding{Strategy: "peer " + name})
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}
