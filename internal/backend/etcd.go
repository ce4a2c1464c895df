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
	// etcdKeepAlive bounds the time until the client leaves a dead etcd for another
	// endpoint. etcd refuses pings more often than every 5 s only from idle clients,
	// and a replica always has a watch or a lease open.
	etcdKeepAlive   = 5 * time.Second
	etcdDialTimeout = 3 * time.Second
	// etcdReconnect is the longest wait before etcd is dialled again. gRPC's default is
	// two minutes, so a replica would find a restarted etcd far too late.
	etcdReconnect = 500 * time.Millisecond
)

// reconnect has gRPC's default values except for the bounds.
var reconnect = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           grpcbackoff.Config{BaseDelay: etcdReconnect / 4, Multiplier: 1.6, Jitter: 0.2, MaxDelay: etcdReconnect},
	MinConnectTimeout: etcdDialTimeout,
})

// etcdClient makes a client. With a user name, it asks etcd for a token at once and
// fails if etcd does not answer.
func (s *Servers) etcdClient(traces trace.TracerProvider) (*clientv3.Client, error) {
	spec := &clientv3.ConfigSpec{Endpoints: s.EtcdEndpoints, DialTimeout: etcdDialTimeout, KeepAliveTime: etcdKeepAlive, KeepAliveTimeout: etcdKeepAlive}
	if s.EtcdCA != "" || s.EtcdCert != "" || s.EtcdKey != "" {
		spec.Secure = &clientv3.SecureConfig{Cacert: s.EtcdCA, Cert: s.EtcdCert, Key: s.EtcdKey}
	}
	config, err := clientv3.NewClientConfig(spec, zap.NewNop()) // no logger: each call returns its error
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

// openEtcdStock connects to etcd without a lock.
func openEtcdStock(ctx context.Context, cfg *Config) (*Backend, error) {
	client, err := cfg.Servers.etcdClient(cfg.Traces)
	if err != nil {
		return nil, err
	}
	key := cfg.Servers.Prefix + cfg.Database // an etcd user may be limited to the prefix
	source, revision, err := etcdSource(ctx, client, key)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &Backend{
		Etcd: client, Source: source, Newest: revision, close: client.Close,
		reached: func(ctx context.Context) (uint64, error) {
			_, revision, err := etcdSource(ctx, client, key)
			return revision, err
		},
		ping: func(ctx context.Context) error {
			err := tryEtcdWrite(ctx, client, key)
			if errors.Is(err, rpctypes.ErrNoSpace) || errors.Is(err, rpctypes.ErrCorrupt) {
				return noWrites(err)
			}
			return err
		},
	}, nil
}

// tryEtcdWrite sends a put whose condition never holds, as no revision is negative. etcd
// still checks its quota, its quorum and the user's rights.
func tryEtcdWrite(ctx context.Context, client *clientv3.Client, key string) error {
	_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "<", 0)).Then(clientv3.OpPut(key, "")).Commit()
	return err
}

// inEtcd opens a lock in etcd.
func inEtcd[L lock.Locker](newLocker func(etcdlock.Config) (L, error)) opener {
	return func(ctx context.Context, cfg *Config) (*Backend, error) {
		b, err := openEtcdStock(ctx, cfg)
		if err != nil {
			return nil, err
		}
		b.Locker, err = newLocker(etcdlock.Config{
			Client: b.Etcd, Prefix: cfg.prefix(), TTL: cfg.TTL, Logger: cfg.Logger,
			Owner: etcdlock.Owner{Replica: cfg.Replica, Host: hostname(), PID: os.Getpid(), Process: cfg.Process, Addr: cfg.ForwardAddr},
		})
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		return b, nil
	}
}

// etcdSource returns the name of the cluster, whose revisions are the fencing tokens, and
// its revision.
func etcdSource(ctx context.Context, client *clientv3.Client, key string) (source string, revision uint64, err error) {
	answer, err := client.Get(ctx, key)
	if err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("etcd cluster %x", answer.Header.ClusterId), uint64(answer.Header.Revision), nil
}
