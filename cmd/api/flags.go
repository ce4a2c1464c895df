package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-sql-driver/mysql"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

func joined(names []string) string { return strings.Join(names, ", ") }

// mysqlFlags name the database.
type mysqlFlags struct {
	DSN  string `name:"mysql-dsn" required:"" placeholder:"DSN" help:"MySQL or MariaDB: user:password@tcp(host:port)/database."`
	Pool int    `name:"mysql-pool" default:"32" help:"Connections of this replica at most."`
}

func (f *mysqlFlags) open() (*stock.DB, error) {
	// Migrating holds one connection for its lock and needs another.
	if f.Pool < 2 {
		return nil, fmt.Errorf("--mysql-pool is %d, at least 2 are needed", f.Pool)
	}
	db, err := stock.Open(f.DSN, f.Pool)
	if err != nil {
		return nil, fmt.Errorf("--mysql-dsn: %w", err)
	}
	return db, nil
}

// address is the server that the DSN names, without its secrets.
func (f *mysqlFlags) address() string {
	cfg, err := mysql.ParseDSN(f.DSN)
	if err != nil {
		return "MySQL"
	}
	return "MySQL at " + cfg.Addr
}

// etcdFlags name the etcd cluster.
type etcdFlags struct {
	Endpoints []string `name:"etcd-endpoints" placeholder:"URL" help:"etcd's client URLs; needed by strategies that lock in etcd."`
	Username  string   `name:"etcd-username" help:"etcd user."`
	Password  string   `name:"etcd-password" help:"etcd password."`
	CA        string   `name:"etcd-ca" placeholder:"FILE" help:"CA that signed etcd's certificate."`
	Cert      string   `name:"etcd-cert" placeholder:"FILE" help:"Client certificate for etcd."`
	Key       string   `name:"etcd-key" placeholder:"FILE" help:"Key of the client certificate."`
	Prefix    string   `name:"etcd-prefix" default:"flashsale/" help:"Prefix of all keys, before the database's name; databases of one name need one each."`
}

const (
	// etcdKeepAlive is how soon a connection to a dead etcd is noticed and
	// another endpoint tried; etcd refuses pings more often than every 5 s only
	// from idle clients, and a replica always has a watch or lease open.
	etcdKeepAlive   = 5 * time.Second
	etcdDialTimeout = 3 * time.Second
	// etcdReconnect is the longest wait before etcd is dialled again. gRPC's own
	// bound is two minutes, and it doubles its waits: a replica would find an
	// etcd that is back as late again as it was away.
	etcdReconnect = 500 * time.Millisecond
)

// reconnect are gRPC's own waits, but for their bounds.
var reconnect = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           grpcbackoff.Config{BaseDelay: etcdReconnect / 4, Multiplier: 1.6, Jitter: 0.2, MaxDelay: etcdReconnect},
	MinConnectTimeout: etcdDialTimeout,
})

// check finds what no waiting mends.
func (f *etcdFlags) check() error {
	if len(f.Endpoints) == 0 {
		return errors.New("--etcd-endpoints is missing: this strategy locks in etcd")
	}
	for _, endpoint := range f.Endpoints {
		if strings.Contains(endpoint, "://") {
			if u, err := url.Parse(endpoint); err != nil || u.Host == "" {
				return fmt.Errorf("--etcd-endpoints: %q is no URL of a server", endpoint)
			}
		}
	}
	return nil
}

// open makes a client. With a user name it asks etcd for a token at once, and
// fails when etcd does not answer.
func (f *etcdFlags) open() (*clientv3.Client, error) {
	var secure *tls.Config
	if f.CA != "" || f.Cert != "" || f.Key != "" {
		var err error
		secure, err = transport.TLSInfo{TrustedCAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key}.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca, --etcd-cert, --etcd-key: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: f.Endpoints, Username: f.Username, Password: f.Password, TLS: secure,
		DialTimeout: etcdDialTimeout, DialKeepAliveTime: etcdKeepAlive, DialKeepAliveTimeout: etcdKeepAlive,
		DialOptions: []grpc.DialOption{reconnect},
		// What goes wrong is returned by each call.
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("--etcd-endpoints: %w", err)
	}
	return client, nil
}

// guardFlags say how stock is guarded.
type guardFlags struct {
	Strategy string         `default:"${strategy}" help:"How orders are guarded: ${strategies}."`
	Fence    strategy.Fence `default:"claim" help:"What MySQL does with fencing tokens: off, write or claim."`
}

// parse checks the flags and returns the strategy and the fence in effect.
func (f *guardFlags) parse() (strategy.Strategy, strategy.Fence, error) {
	s, err := strategy.Find(f.Strategy)
	if err != nil {
		return s, "", fmt.Errorf("--strategy: %w", err)
	}
	fence, err := strategy.ParseFence(string(f.Fence))
	if err != nil {
		return s, "", fmt.Errorf("--fence: %w", err)
	}
	return s, s.FenceFor(fence), nil
}

// logFlags say what is logged.
type logFlags struct {
	Level slog.Level `name:"log-level" default:"info" help:"debug, info, warn or error."`
}

func (f *logFlags) logger(replica string, s streams) *slog.Logger {
	return slog.New(slog.NewJSONHandler(s.err, &slog.HandlerOptions{Level: f.Level})).With("replica", replica)
}

const (
	// awaitAttempt bounds one try to reach a server at start.
	awaitAttempt = 3 * time.Second
	// awaitEvery is the longest wait between two tries.
	awaitEvery = 2 * time.Second
)

// await tries to reach a server until it answers, and says what it waits for.
// It gives up when limit has passed.
func await(ctx context.Context, logger *slog.Logger, what string, limit time.Duration, try func(context.Context) error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, awaitEvery
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var lastErr error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		attempt, cancel := context.WithTimeout(ctx, awaitAttempt)
		defer cancel()
		err := try(attempt)
		if err != nil && (lastErr == nil || ctx.Err() == nil) {
			lastErr = err
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, next time.Duration) {
		logger.Warn("waiting for "+what, "error", err, "next_try_in", next.Round(time.Millisecond).String())
	}))
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s did not answer within --start-timeout %s: %w", what, limit, lastErr)
	}
	return err
}

// defaultReplica tells replicas of one host apart.
func defaultReplica() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}
