package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
)

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

// etcdClient makes a client. With a user name it asks etcd for a token at once,
// and fails when etcd does not answer.
func (s *Servers) etcdClient(traces trace.TracerProvider) (*clientv3.Client, error) {
	spec := &clientv3.ConfigSpec{Endpoints: s.EtcdEndpoints, DialTimeout: etcdDialTimeout, KeepAliveTime: etcdKeepAlive, KeepAliveTimeout: etcdKeepAlive}
	if s.EtcdCA != "" || s.EtcdCert != "" || s.EtcdKey != "" {
		spec.Secure = &clientv3.SecureConfig{Cacert: s.EtcdCA, Cert: s.EtcdCert, Key: s.EtcdKey}
	}
	// What goes wrong is returned by each call.
	config, err := clientv3.NewClientConfig(spec, zap.NewNop())
	if err != nil {
		return nil, fmt.Errorf("--etcd-ca, --etcd-cert, --etcd-key: %w", err)
	}
	config.Username, config.Password, config.Logger = s.EtcdUsername, s.EtcdPassword, zap.NewNop()
	config.DialOptions = []grpc.DialOption{reconnect}
	if traces != nil {
		config.DialOptions = append(config.DialOptions, grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(traces))))
	}
	client, err := clientv3.New(*config)
	if err != nil {
		return nil, fmt.Errorf("--etcd-endpoints: %w", err)
	}
	return client, nil
}

// openEtcdStock connects to an etcd that no lock is taken in.
func openEtcdStock(ctx context.Context, cfg *Config) (*Backend, error) {
	client, err := cfg.Servers.etcdClient(cfg.Traces)
	if err != nil {
		return nil, err
	}
	// Under the prefix: an etcd user may be allowed no more than that.
	key := cfg.Servers.Prefix + cfg.Database
	source, revision, err := etcdSource(ctx, client, key)
	if err != nil {
		return nil, closing(err, client.Close)
	}
	return &Backend{
		Etcd: client, Source: source, Newest: uint64(revision), close: client.Close,
		reached: func(ctx context.Context) (uint64, error) {
			_, revision, err := etcdSource(ctx, client, key)
			return uint64(revision), err
		},
		ping: func(ctx context.Context) error { return askEtcd(ctx, client, key) },
	}, nil
}

// askEtcd asks a majority for a transaction that never puts anything: no revision is
// below zero. A full etcd refuses it for what it might put.
func askEtcd(ctx context.Context, client *clientv3.Client, key string) error {
	_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "<", 0)).Then(clientv3.OpPut(key, "")).Commit()
	if errors.Is(err, rpctypes.ErrNoSpace) || errors.Is(err, rpctypes.ErrCorrupt) {
		return noWrites(err)
	}
	return err
}

// inEtcd opens a lock in etcd.
func inEtcd[L lock.Locker](newLocker func(etcdlock.Config) (L, error)) func(context.Context, *Config) (*Backend, error) {
	return func(ctx context.Context, cfg *Config) (*Backend, error) {
		g, err := openEtcdStock(ctx, cfg)
		if err != nil {
			return nil, err
		}
		host, _ := os.Hostname() // only shown to people
		g.Locker, err = newLocker(etcdlock.Config{
			Client: g.Etcd, Prefix: cfg.prefix(), TTL: cfg.TTL, Logger: cfg.Logger,
			Owner: etcdlock.Owner{Replica: cfg.Replica, Host: host, PID: os.Getpid(), Process: cfg.Process, Addr: cfg.ForwardAddr},
		})
		if err != nil {
			return nil, closing(err, g.close)
		}
		return g, nil
	}
}

// etcdSource names the cluster whose revisions are the fencing tokens, and says
// at which it is.
func etcdSource(ctx context.Context, client *clientv3.Client, key string) (source string, revision int64, err error) {
	answer, err := client.Get(ctx, key)
	if err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("etcd cluster %x", answer.Header.ClusterId), answer.Header.Revision, nil
}
