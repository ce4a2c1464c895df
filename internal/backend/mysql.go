package backend

import (
	"context"
	"os"

	"flashsale/internal/lock"
	"flashsale/internal/lock/mysqllock"
)

const (
	// lockTable and rowTable are the locks' own tables, beside the orders'.
	lockTable = "stock_lock"
	rowTable  = "stock_lock_row"
	// rowTries is how often lock-row tries, a second apart.
	rowTries = 4
)

// inMySQL opens a lock in the orders' own database, on connections of its own.
// There is no server to ask: the orders need it themselves.
func inMySQL[L lock.Locker](newLocker func(mysqllock.Config) (L, error), with mysqllock.Config, source string) func(context.Context, *Config) (*Backend, error) {
	return func(_ context.Context, cfg *Config) (*Backend, error) {
		host, _ := os.Hostname() // only shown to people
		mine := with
		mine.DSN, mine.Connections, mine.TTL = cfg.DSN, cfg.Connections, cfg.TTL
		mine.Owner = mysqllock.Owner{Replica: cfg.Replica, Host: host, PID: os.Getpid()}
		locker, err := newLocker(mine)
		if err != nil {
			return nil, err
		}
		return &Backend{Locker: locker, Source: source}, nil
	}
}
