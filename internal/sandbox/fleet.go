package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Fleet is the replicas of one service.
type Fleet struct {
	Replicas []*Replica
	// AdminToken and JWTSecret are what all replicas check their callers with.
	AdminToken, JWTSecret string
}

// StartFleet starts n replicas at the same time, named replica-1, replica-2 and so on
// unless they have names. config returns the settings of replica i, counted from 0. All replicas get the
// secrets of replica 0, or new ones where it has none. If a replica fails to start,
// StartFleet stops the others.
func StartFleet(ctx context.Context, n int, config func(i int) ReplicaConfig) (*Fleet, error) {
	cfgs := make([]ReplicaConfig, n)
	for i := range cfgs {
		cfgs[i] = config(i)
		cfgs[i].Replica = cmp.Or(cfgs[i].Replica, replicaName(i))
		if cfgs[i].Command == nil {
			cfgs[i].Args = append(slices.Clone(cfgs[i].Args), fmt.Sprintf("--max-replicas=%d", n))
		}
	}
	f := &Fleet{AdminToken: cfgs[0].AdminToken, JWTSecret: cfgs[0].JWTSecret}
	if f.AdminToken == "" {
		f.AdminToken, f.JWTSecret = Secret(), Secret()
	}
	started := make([]*Replica, n)
	group, ctx := errgroup.WithContext(ctx)
	for i, cfg := range cfgs {
		group.Go(func() (err error) {
			cfg.AdminToken, cfg.JWTSecret = f.AdminToken, f.JWTSecret
			started[i], err = StartReplica(ctx, cfg)
			return err
		})
	}
	err := group.Wait()
	f.Replicas = slices.DeleteFunc(started, func(r *Replica) bool { return r == nil })
	if err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	return f, nil
}

func replicaName(i int) string { return fmt.Sprintf("replica-%d", i+1) }

// URLs returns the base URL of each replica.
func (f *Fleet) URLs() []string {
	urls := make([]string, len(f.Replicas))
	for i, r := range f.Replicas {
		urls[i] = r.URL
	}
	return urls
}

// Pids returns the process id of each replica.
func (f *Fleet) Pids() []int {
	pids := make([]int, len(f.Replicas))
	for i, r := range f.Replicas {
		pids[i] = r.Pid()
	}
	return pids
}

// Dead returns an error that names each replica that has exited, with the end of its
// log, or nil if all are running.
func (f *Fleet) Dead() error {
	const shownLines = 10
	var all []error
	for _, r := range f.Replicas {
		select {
		case <-r.Done():
			all = append(all, fmt.Errorf("%s exited during the run; its log ends:\n%s", r.Name, strings.TrimSpace(r.LogTail(shownLines))))
		default:
		}
	}
	return errors.Join(all...)
}

// Stop ends all replicas and lets them finish the requests that they are serving. It
// returns an error for each replica that had to be killed.
func (f *Fleet) Stop() error {
	errs := make([]error, len(f.Replicas))
	var all sync.WaitGroup
	for i, r := range f.Replicas {
		// Replica.Stop has its own bound; the caller's context may have ended already.
		all.Go(func() { errs[i] = r.Stop(context.Background()) })
	}
	all.Wait()
	return errors.Join(errs...)
}
