package faults

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// Database has the faults of the servers of a clustered database. Unless a row says
// otherwise, they hit the server that the replicas write to.
var Database = Table{
	faults: []Fault{
		{
			Name:   "kill",
			inject: func(_ context.Context, r *run) error { r.begin(); r.server().Kill(); return nil },
			heal:   rejoin,
			goals: map[sandbox.Product][]goal{
				sandbox.RealMySQL: {{measure: noSale, most: 10 * time.Second}, {measure: afterWrite, most: time.Second}},
				sandbox.MariaDB:   {{measure: noSale, most: 8 * time.Second}},
			},
		},
		{
			// Galera has no primary: there the server shuts down, as for an upgrade.
			Name: "switch",
			inject: func(ctx context.Context, r *run) error {
				r.begin()
				if r.server().Product == sandbox.RealMySQL {
					return r.Cluster.SwitchPrimary(ctx, (r.failing+1)%len(r.Cluster.Nodes))
				}
				return r.server().Stop(ctx)
			},
			heal:  rejoin,
			goals: map[sandbox.Product][]goal{sandbox.RealMySQL: {{measure: noSale, most: 4 * time.Second}}},
		},
		{
			Name: "cut", Network: sandbox.Namespaces,
			inject: func(ctx context.Context, r *run) error {
				for i := range r.Cluster.Nodes {
					if i == r.failing {
						continue
					}
					if err := r.Network.CutBoth(ctx, serverName(r.failing), serverName(i)); err != nil {
						return err
					}
				}
				r.begin() // until now some packets still got through
				return nil
			},
			heal: func(ctx context.Context, r *run) error {
				if err := r.Network.Heal(ctx); err != nil {
					return err
				}
				return rejoin(ctx, r)
			},
		},
		{
			// The other servers stop and resume; times count from then on.
			Name: "majority", anyWriter: true,
			inject: func(ctx context.Context, r *run) error {
				if err := r.signalOthers(sandbox.SIGSTOP); err != nil {
					return err
				}
				err := sleep.For(ctx, outage)
				r.begin()
				return errors.Join(err, r.signalOthers(sandbox.SIGCONT))
			},
			heal: func(ctx context.Context, r *run) error {
				for i := range r.Cluster.Nodes {
					if err := r.Cluster.Rejoin(ctx, i); err != nil {
						return err
					}
				}
				return nil
			},
		},
	},
	measures: []*measure{untilWrite, untilOrder, noSale},
	// A server of Galera may need a minute to rejoin on a busy machine.
	margin: 4 * time.Minute,
	pays:   true,
	choose: chooseServer,
}

// outage is how long the cluster has no majority: long enough that each server notices.
const outage = 10 * time.Second

func serverName(i int) string { return fmt.Sprintf("mysql-%d", i+1) }

func rejoin(ctx context.Context, r *run) error { return r.Cluster.Rejoin(ctx, r.failing) }

// signalOthers sends a signal to all servers but the one that the replicas write to.
func (r *run) signalOthers(sig syscall.Signal) error {
	var errs []error
	for i, m := range r.Cluster.Nodes {
		if i != r.failing {
			errs = append(errs, m.Signal(sig))
		}
	}
	return errors.Join(errs...)
}

// chooseServer picks the server with the most connections of the replicas and starts to
// watch for the first write after the fault.
func chooseServer(ctx context.Context, r *run) error {
	most := 0
	for i, m := range r.Cluster.Nodes {
		all, err := m.Connections(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, c := range all {
			if c.Database == r.Name {
				n++
			}
		}
		if n > most {
			r.failing, most = i, n
		}
	}
	if most == 0 {
		return errors.New("no database server has connections of the replicas")
	}
	p, err := newProbe(ctx, r)
	if err != nil {
		return err
	}
	r.writable = make(chan time.Time, 1)
	r.background.Go(func() {
		defer p.close()
		r.writable <- p.firstWrite(ctx)
	})
	return nil
}
