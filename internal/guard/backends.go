package guard

import (
	"context"

	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/lock/k8slock"
	"flashsale/internal/lock/memcachedlock"
	"flashsale/internal/lock/mysqllock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/lock/redislock"
	"flashsale/internal/lock/zklock"
	"flashsale/internal/strategy"
)

// backend is one kind of lock.
type backend struct {
	capabilities lock.Capabilities
	open         func(ctx context.Context, cfg *Config) (*Guard, error)
}

// backends are all kinds, by their name in the registry.
var backends = map[strategy.Lock]backend{
	strategy.NoLock: {open: func(context.Context, *Config) (*Guard, error) { return &Guard{}, nil }},
	strategy.Process: {processlock.Capabilities, func(context.Context, *Config) (*Guard, error) {
		return &Guard{Locker: processlock.New()}, nil
	}},
	strategy.LockRow:      {mysqllock.RowCapabilities, inMySQL(mysqllock.NewRow, mysqllock.Config{Table: rowTable, Tries: rowTries}, "")},
	strategy.LockTable:    {mysqllock.TableCapabilities, inMySQL(mysqllock.NewTable, mysqllock.Config{Table: lockTable}, "MySQL table "+lockTable)},
	strategy.GetLock:      {mysqllock.GetLockCapabilities, inMySQL(mysqllock.NewGetLock, mysqllock.Config{}, "")},
	strategy.EtcdTextbook: {etcdlock.TextbookCapabilities, inEtcd(etcdlock.NewTextbook)},
	strategy.Etcd:         {etcdlock.Capabilities, inEtcd(etcdlock.New)},
	strategy.EtcdTry:      {etcdlock.TryCapabilities, inEtcd(etcdlock.NewTry)},
	strategy.ZooKeeper:    {zklock.Capabilities, inZooKeeper},
	strategy.Redis:        {redislock.Capabilities, inRedis},
	strategy.Redlock:      {redislock.RedlockCapabilities, inRedlock},
	strategy.Memcached:    {memcachedlock.Capabilities, inMemcached},
	strategy.Lease:        {k8slock.LeaseCapabilities, inKubernetes(k8slock.NewLease)},
	strategy.StockLock:    {k8slock.StockCapabilities, inKubernetes(k8slock.NewStock)},
}
