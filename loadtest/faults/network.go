package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/sandbox"
)

// networkFaults cut the seller or the replicas off, and leave all processes alone.
var networkFaults = []Scenario{
	{
		Name: "etcd-cut", Injects: "the seller is cut off from etcd", Short: true, chaos: true,
		needs: needs{network: true}, ttls: 3,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			return r.net().CutOff(ctx, r.sellerReplica().Name, r.stack.EtcdNames()...)
		},
		heal: healNetwork,
	},
	{
		Name: "mysql-cut", Injects: "the seller is cut off from the database, both ways", chaos: true,
		needs: needs{network: true}, ttls: 3, away: true,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			return r.net().CutOff(ctx, r.sellerReplica().Name, r.databaseNames()...)
		},
		heal: healNetwork,
	},
	{
		Name: "commit-cut", Injects: "the database's answers to the seller are lost, also those to COMMIT", chaos: true,
		needs: needs{network: true}, ttls: 3, away: true,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			for _, name := range r.databaseNames() {
				if err := r.net().Cut(ctx, name, r.sellerReplica().Name); err != nil {
					return err
				}
			}
			return nil
		},
		heal: healNetwork,
	},
	{
		Name: "replicas-cut", Injects: "the replicas are cut off from each other", Short: true, chaos: true,
		needs: needs{network: true}, ttls: 3,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			for i, a := range r.fleet.Replicas {
				var others []string
				for _, b := range r.fleet.Replicas[i+1:] {
					others = append(others, b.Name)
				}
				if err := r.net().CutOff(ctx, a.Name, others...); err != nil {
					return err
				}
			}
			return nil
		},
		heal: healNetwork,
	},
	{
		Name: "slow-network", Injects: "packets between replicas and etcd arrive 100 ms later; as root, 2 % of the packets between replicas and etcd or the database are lost",
		needs: needs{network: true, delays: true}, ttls: 4,
		inject: slowDown, heal: healNetwork,
	},
}

func healNetwork(ctx context.Context, r *run) error { return r.net().Heal(ctx) }

const (
	slowLink    = 100 * time.Millisecond
	lostPercent = 2
)

func slowDown(ctx context.Context, r *run) error {
	r.begin()
	for _, replica := range r.fleet.Replicas {
		for _, name := range r.stack.EtcdNames() {
			if err := errors.Join(r.net().Delay(ctx, replica.Name, name, slowLink), r.net().Delay(ctx, name, replica.Name, slowLink)); err != nil {
				return err
			}
		}
		for _, name := range append(r.stack.EtcdNames(), r.databaseNames()...) {
			for _, link := range [][2]string{{replica.Name, name}, {name, replica.Name}} {
				err := r.net().Lose(ctx, link[0], link[1], lostPercent)
				if err != nil && r.Network == sandbox.Relays {
					r.note("no packets are lost: %s", err)
					return nil
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (w *world) databaseNames() []string {
	names := make([]string, len(w.databases()))
	for i := range names {
		names[i] = fmt.Sprintf("mysql-%d", i+1)
	}
	return names
}
