package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lockserver"
)

// margin bounds whatever a side does besides its load.
const margin = 3 * time.Minute

// run is a run of one strategy, or of two, one after the other on the same servers.
type run struct {
	cfg     Config
	setting Setting
	rows    []strategy.Strategy
	fault   *fault

	activity *activity
	stack    *sandbox.Stack
}

func (r *run) title() string {
	names := make([]string, len(r.rows))
	for i, row := range r.rows {
		names[i] = row.Name
	}
	title := strings.Join(names, " against ")
	if r.fault.name != noFault {
		title += ": " + strings.ToLower(r.fault.title[:1]) + r.fault.title[1:]
	}
	return title
}

// do makes the run, and leaves nothing behind.
func (r *run) do(ctx context.Context, a *activity) error {
	r.activity = a
	a.keep(r.setting)
	a.say("setting", Chosen{Setting: r.setting, Defaults: Defaults})
	err := r.onServers(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // whatever failed did so because the run was stopped
	}
	return err
}

func (r *run) onServers(ctx context.Context) (err error) {
	needs := sandbox.Config{MySQL: true, Database: r.cfg.Database, EtcdProgram: r.cfg.EtcdProgram}
	starts := "the database"
	for _, row := range r.rows {
		if row.Server == strategy.InEtcd {
			needs.EtcdNodes, starts = max(1, r.fault.etcdNodes), "the database and etcd"
		}
	}
	if r.fault.network {
		needs.Network, _ = sandbox.BestNetwork()
	}
	r.phase(-1, "Starting %s", starts)
	if r.stack, err = sandbox.Start(ctx, needs); err != nil {
		return err
	}
	defer r.stack.Stop()
	for i, row := range r.rows {
		limited, cancel := context.WithTimeoutCause(ctx, r.setting.load()+margin, fmt.Errorf("the run of %s took more than %s", row.Name, r.setting.load()+margin))
		err := r.oneSide(limited, i, row)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, errors.Join(err, context.Cause(limited)))
		}
	}
	return nil
}

func (r *run) phase(side int, format string, args ...any) {
	r.activity.say("phase", Phase{Side: side, Text: fmt.Sprintf(format, args...)})
}

// lockServer returns the addresses of a strategy's lock server, and what stops it.
func (r *run) lockServer(ctx context.Context, row strategy.Strategy) (*backend.Servers, func() error, error) {
	if row.Server == strategy.InEtcd {
		return &backend.Servers{EtcdEndpoints: r.stack.EtcdEndpoints(), Prefix: lockserver.Prefix}, func() error { return nil }, nil
	}
	server, err := lockserver.Start(ctx, row.Server)
	if err != nil {
		return nil, nil, err
	}
	return &server.Servers, server.Stop, nil
}
