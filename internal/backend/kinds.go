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

type opener = func(ctx context.Context, cfg *Config) (*Backend, error)

// kind is one kind of lock.
type kind struct {
	capabilities lock.Capabilities
	inspects     bool // the lock is a lock.Inspector
	open         opener
}

// kinds are all locks, by their name in the registry.
var kinds = map[strategy.Lock]kind{
	strategy.NoLock: {open: func(context.Context, *Config) (*Backend, error) { return &Backend{}, nil }},
	strategy.Process: {processlock.Capabilities, inspects[*processlock.Locker](), func(context.Context, *Config) (*Backend, error) {
		return &Backend{Locker: processlock.New()}, nil
	}},
	strategy.LockRow:      {mysqllock.RowCapabilities, inspects[*mysqllock.Row](), inMySQL(mysqllock.NewRow, mysqllock.Config{Table: rowTable, Tries: rowTries}, "")},
	strategy.LockTable:    {mysqllock.TableCapabilities, inspects[*mysqllock.Table](), inMySQL(mysqllock.NewTable, mysqllock.Config{Table: lockTable}, "MySQL table "+lockTable)},
	strategy.GetLock:      {mysqllock.GetLockCapabilities, inspects[*mysqllock.GetLock](), inMySQL(mysqllock.NewGetLock, mysqllock.Config{}, "")},
	strategy.EtcdTextbook: {etcdlock.TextbookCapabilities, inspects[*etcdlock.Textbook](), inEtcd(etcdlock.NewTextbook)},
	strategy.Etcd:         {etcdlock.Capabilities, inspects[*etcdlock.Locker](), inEtcd(etcdlock.New)},
	strategy.EtcdTry:      {etcdlock.TryCapabilities, inspects[*etcdlock.Try](), inEtcd(etcdlock.NewTry)},
	strategy.ZooKeeper:    {zklock.Capabilities, inspects[*zklock.Locker](), inZooKeeper},
	strategy.Redis:        {redislock.Capabilities, inspects[*redislock.Locker](), inRedis(redislock.New)},
	strategy.Redlock:      {redislock.RedlockCapabilities, inspects[*redislock.Redlock](), inRedis(redislock.NewRedlock)},
	strategy.Memcached:    {memcachedlock.Capabilities, inspects[*memcachedlock.Locker](), inMemcached},
	strategy.Lease:        {k8slock.LeaseCapabilities, inspects[*k8slock.LeaseLocker](), inKubernetes(k8slock.NewLease)},
	strategy.StockLock:    {k8slock.StockCapabilities, inspects[*k8slock.StockLocker](), inKubernetes(k8slock.NewStock)},
}

func inspects[L lock.Locker]() bool {
	var none L
	_, ok := any(none).(lock.Inspector)
	return ok
}

// ShowsHolder reports whether the strategy's lock can list its holders.
func ShowsHolder(s strategy.Strategy) bool { return kinds[s.Lock].inspects }
