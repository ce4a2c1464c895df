package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/mysqlsession"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
)

func joined(names []string) string { return strings.Join(names, ", ") }

// mysqlFlags name the database.
type mysqlFlags struct {
	DSN  string `name:"mysql-dsn" exact:"" required:"" placeholder:"DSN" help:"MySQL or MariaDB: user:password@tcp(host:port)/database; of several hosts, tcp(host:port,host:port), the one that takes writes is used. It holds a password: give it in FLASHSALE_MYSQL_DSN or --config rather than here."`
	Pool int    `name:"mysql-pool" default:"32" help:"Connections to MySQL that orders, or the command, may use; 2 at least."`
	mysqlTLSFlags
}

// open makes the pool. It leaves a DSN that includes the flags for TLS.
func (f *mysqlFlags) open(choices ...stock.Option) (db *stock.DB, err error) {
	// Migrating holds one connection for its lock and needs another.
	if f.Pool < 2 || f.Pool > mostConnections {
		return nil, fmt.Errorf("--mysql-pool is %d, must be from 2 to %d", f.Pool, mostConnections)
	}
	if f.DSN, err = f.secured(f.DSN); err != nil {
		return nil, err
	}
	db, err = stock.Open(f.DSN, f.Pool, choices...)
	if err != nil {
		return nil, fmt.Errorf("--mysql-dsn: %w", err)
	}
	return db, nil
}

// lockPool are the connections of a lock in MySQL: one for each SKU that is
// locked or waited for, beside those that the orders are written by.
func (f *mysqlFlags) lockPool() int { return max(2, f.Pool/4) }

// capacityFlags say how much of MySQL all replicas together may take.
type capacityFlags struct {
	// MaxReplicas is only for the check against what the server and the account allow.
	MaxReplicas int `default:"4" placeholder:"N" help:"Replicas that share the database, at most (${default}), with the one more that a rolling update starts before it ends an old one: 3 replicas are 4. None starts unless MySQL's max_connections, and the account's MAX_USER_CONNECTIONS, are more than this times what one may open, which is --mysql-pool and a few more."`
}

// mostConnections is the largest max_connections that a server takes.
const mostConnections = 100_000

func (f *capacityFlags) check() error {
	if f.MaxReplicas < 1 || f.MaxReplicas > mostConnections {
		return fmt.Errorf("--max-replicas is %d, must be from 1 to %d", f.MaxReplicas, mostConnections)
	}
	return nil
}

// needs are the connections of all replicas.
func (f *capacityFlags) needs(row strategy.Strategy, mysql *mysqlFlags) doctor.Needs {
	each := mysql.Pool + mysql.besidePool(row)
	return doctor.Needs{
		Connections: f.MaxReplicas * each,
		Count: fmt.Sprintf("--max-replicas %d (the one that a rolling update starts included) x (--mysql-pool %d + %d)",
			f.MaxReplicas, mysql.Pool, each-mysql.Pool),
	}
}

// besidePool is how many connections a replica may open beside --mysql-pool.
func (f *mysqlFlags) besidePool(row strategy.Strategy) int {
	beside := f.lockPool()
	if row.Write == strategy.Batch {
		beside = mirrorPool
	}
	return beside + backend.LeaseConnections + presencePool + stock.BlockerConnections
}

// pinging asks the server for an answer, and gives up at once where no waiting helps.
func (f *mysqlFlags) pinging(db *stock.DB) func(context.Context) error {
	return func(ctx context.Context) error {
		err := db.Ping(ctx)
		if err == nil {
			return nil
		}
		if refused := stock.Refused(err); refused != nil {
			return backoff.Permanent(fmt.Errorf("%s: %w", f.address(), refused))
		}
		return err
	}
}

// address is the server that the DSN names, without its secrets.
func (f *mysqlFlags) address() string {
	cfg, err := mysqlsession.Parse(f.DSN)
	if err != nil {
		return "MySQL"
	}
	return "MySQL at " + cfg.Addr
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
	Level slog.Level `name:"log-level" default:"info" help:"Least level that is logged: debug, info, warn or error; api config changes it later."`
}

func (f *logFlags) logger(replica string, level slog.Leveler, s streams) *slog.Logger {
	return slog.New(telemetry.Logged(slog.NewJSONHandler(s.err, &slog.HandlerOptions{Level: level}))).With("replica", replica)
}

const (
	// awaitAttempt bounds one try to reach a server at start.
	awaitAttempt = 3 * time.Second
	// awaitEvery is the longest wait between two tries.
	awaitEvery = 2 * time.Second
)

// await tries to reach a server until it answers, and says what it waits for.
// It gives up when limit has passed, and at once at an error that is
// backoff.Permanent.
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
