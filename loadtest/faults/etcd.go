package faults

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"flashsale/loadtest/lockserver"
)

const (
	// etcdElection is what an election of etcd takes at most: two timeouts of a second each,
	// and a second for the clients to find the new leader.
	etcdElection = 3 * time.Second
	// etcdTimeout bounds a call to an etcd that has a leader.
	etcdTimeout = 10 * time.Second
	// smallQuota is a size that a run can fill within seconds.
	smallQuota = 16 << 20
)

// etcdFaults hit etcd, and what it keeps for the seller.
var etcdFaults = []Scenario{
	{
		Name: "etcd-leader-killed", Injects: "the leader of three etcd nodes is killed and started again",
		needs: needs{etcdNodes: 3}, election: etcdElection, chaos: true, lasts: 4 * time.Second,
		inject: func(ctx context.Context, r *run) error {
			leader, err := r.stack.EtcdLeader(ctx)
			if err != nil {
				return err
			}
			r.begin()
			r.stack.Etcd[leader].Kill()
			return nil
		},
		heal: restartEtcd,
	},
	{
		Name: "etcd-quorum-lost", Injects: "two of three etcd nodes are killed and started again",
		needs: needs{etcdNodes: 3}, election: etcdElection, chaos: true, ttls: 2,
		inject: func(ctx context.Context, r *run) error {
			leader, err := r.stack.EtcdLeader(ctx)
			if err != nil {
				return err
			}
			r.begin()
			for i := range 2 {
				r.stack.Etcd[(leader+i)%3].Kill()
			}
			return nil
		},
		heal: restartEtcd,
	},
	{
		Name: "lease-revoked", Injects: "the lease of the seller's lock is revoked by hand", chaos: true, instant: true,
		inject: func(ctx context.Context, r *run) error {
			_, lease, err := r.lockEntry(ctx)
			if err != nil {
				return err
			}
			r.begin()
			_, err = r.etcd.Revoke(ctx, lease)
			return err
		},
		heal: nothing,
	},
	{
		Name: "key-deleted", Injects: "the key of the seller's lock is deleted by hand", chaos: true, instant: true,
		inject: func(ctx context.Context, r *run) error {
			key, _, err := r.lockEntry(ctx)
			if err != nil {
				return err
			}
			r.begin()
			_, err = r.etcd.Delete(ctx, key)
			return err
		},
		heal: nothing,
	},
	{
		Name: "etcd-full", Injects: "etcd is out of space and refuses writes (alarm NOSPACE), until an operator compacts and defragments it, and clears the alarm",
		needs: needs{quota: smallQuota}, election: etcdElection, ttls: 2,
		inject: func(ctx context.Context, r *run) error { r.begin(); return r.fillEtcd(ctx) },
		heal:   func(ctx context.Context, r *run) error { return r.cureEtcd(ctx) },
	},
	{
		Name: "etcd-restored", Injects: "etcd is restored from an older snapshot, and the seller is killed; new tokens are too old until an operator runs api fence adopt",
		election: etcdElection, halts: true, silent: true, restarts: true, lasts: 3 * time.Second,
		inject: func(ctx context.Context, r *run) error {
			snapshot, err := r.stack.EtcdSnapshot(ctx)
			if err != nil {
				return err
			}
			// A token that the restored etcd does not reach during the run.
			if err := r.advance(ctx); err != nil {
				return err
			}
			if err := r.passOnLock(ctx); err != nil {
				return err
			}
			if err := r.findSeller(ctx); err != nil {
				return err
			}
			r.begin()
			if err := r.stack.EtcdRestore(ctx, snapshot, false); err != nil {
				return err
			}
			// A tenure that goes on has its token; the next one gets an older token.
			r.sellerReplica().Kill()
			return nil
		},
		heal: adoptFence,
	},
}

func nothing(context.Context, *run) error { return nil }

func restartEtcd(ctx context.Context, r *run) error { return r.stack.RestartEtcd(ctx) }

// lockEntry returns the key of the hot SKU's holder, and its lease.
func (r *run) lockEntry(ctx context.Context) (key string, lease clientv3.LeaseID, err error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	got, err := r.etcd.Get(ctx, lockPrefix+r.hot+"/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(1))
	if err != nil {
		return "", 0, err
	}
	if len(got.Kvs) == 0 {
		return "", 0, errOtherSeller
	}
	return string(got.Kvs[0].Key), clientv3.LeaseID(got.Kvs[0].Lease), nil
}

// lockPrefix starts the keys of all locks.
const lockPrefix = lockserver.Prefix + databaseName + "/lock/"

// fillEtcd writes until etcd refuses to.
func (r *run) fillEtcd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ballast := strings.Repeat("x", 1<<20)
	for i := 0; ; i++ {
		_, err := r.etcd.Put(ctx, fmt.Sprint("ballast/", i), ballast)
		if err != nil && strings.Contains(err.Error(), "space exceeded") {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("etcd is not full: %w", err)
		}
	}
}

// cureEtcd does what an operator does about the alarm.
func (r *run) cureEtcd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	gone, err := r.etcd.Delete(ctx, "ballast/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if _, err := r.etcd.Compact(ctx, gone.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	for _, node := range r.stack.Etcd {
		if _, err := r.etcd.Defragment(ctx, node.Endpoint); err != nil {
			return err
		}
	}
	_, err = r.etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: 0, Alarm: etcdserverpb.AlarmType_NONE})
	return err
}

// revisions is more than the replicas write to etcd during a run.
const revisions = 3000

// advance raises etcd's revision, from which tokens are made.
func (r *run) advance(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for range revisions {
		group.Go(func() error {
			_, err := r.etcd.Put(ctx, "advance", "")
			return err
		})
	}
	return group.Wait()
}

// passOnLock makes a replica begin a new tenure, with a newer token.
func (r *run) passOnLock(ctx context.Context) error {
	key, _, err := r.lockEntry(ctx)
	if err != nil {
		return err
	}
	if _, err := r.etcd.Delete(ctx, key); err != nil {
		return err
	}
	return r.awaitSales(ctx, r.sales.Load()+warmSales)
}
