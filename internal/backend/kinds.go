package backend

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
type kind struct {
	capabilities lock.Capabilities
	tells        bool // who holds: it is a lock.Inspector
	open         func(ctx context.Context, cfg *Config) (*Backend, error)
}

// kinds are all kinds, by their name in the registry.
var kinds = map[strategy.Lock]kind{
	strategy.NoLock: {open: func(context.Context, *Config) (*Backend, error) { return &Backend{}, nil }},
	strategy.Process: {processlock.Capabilities, tells[*processlock.Locker](), func(context.Context, *Config) (*Backend, error) {
		return &Backend{Locker: processlock.New()}, nil
	}},
	strategy.LockRow:      {mysqllock.RowCapabilities, tells[*mysqllock.Row](), inMySQL(mysqllock.NewRow, mysqllock.Config{Table: rowTable, Tries: rowTries}, "")},
	strategy.LockTable:    {mysqllock.TableCapabilities, tells[*mysqllock.Table](), inMySQL(mysqllock.NewTable, mysqllock.Config{Table: lockTable}, "MySQL table "+lockTable)},
	strategy.GetLock:      {mysqllock.GetLockCapabilities, tells[*mysqllock.GetLock](), inMySQL(mysqllock.NewGetLock, mysqllock.Config{}, "")},
	strategy.EtcdTextbook: {etcdlock.TextbookCapabilities, tells[*etcdlock.Textbook](), inEtcd(etcdlock.NewTextbook)},
	strategy.Etcd:         {etcdlock.Capabilities, tells[*etcdlock.Locker](), inEtcd(etcdlock.New)},
	strategy.EtcdTry:      {etcdlock.TryCapabilities, tells[*etcdlock.Try](), inEtcd(etcdlock.NewTry)},
	strategy.ZooKeeper:    {zklock.Capabilities, tells[*zklock.Locker](), inZooKeeper},
	strategy.Redis:        {redislock.Capabilities, tells[*redislock.Locker](), inRedis},
	strategy.Redlock:      {redislock.RedlockCapabilities, tells[*redislock.Redlock](), inRedlock},
	strategy.Memcached:    {memcachedlock.Capabilities, tells[*memcachedlock.Locker](), inMemcached},
	strategy.Lease:        {k8slock.LeaseCapabilities, tells[*k8slock.LeaseLocker](), inKubernetes(k8slock.NewLease)},
	strategy.StockLock:    {k8slock.StockCapabilities, tells[*k8slock.StockLocker](), inKubernetes(k8slock.NewStock)},
}

// tells is whether a lock can say who holds it.
func tells[L lock.Locker]() bool {
	var none L
	_, ok := any(none).(lock.Inspector)
	return ok
}

// TellsOwner is whether the lock of a strategy says who holds it.
func TellsOwner(s strategy.Strategy) bool { return kinds[s.Lock].tells }
