package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
)

// backends are the servers of a run's replicas.
type backends struct {
	dsn   string
	etcd  []string
	redis string
}

// startFleet starts n replicas of a peer. The ports are those of the profiles, if the
// run is profiled.
func (b *bench) startFleet(ctx context.Context, p peer.Peer, way peer.Way, at backends, n int) (f *sandbox.Fleet, pprof []*sandbox.Port, err error) {
	if b.cfg.Profiles != "" && way.Strategy != "" {
		if pprof, err = sandbox.ReservePorts(n); err != nil {
			return nil, nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program to serve a peer: %w", err)
	}
	f, err = sandbox.StartFleet(ctx, n, func(i int) sandbox.ReplicaConfig {
		cfg := sandbox.ReplicaConfig{
			Program: b.cfg.API, MySQLDSN: at.dsn, EtcdEndpoints: at.etcd, Strategy: way.Strategy, AdminToken: b.adminToken, JWTSecret: b.jwtSecret,
		}
		if way.Strategy == "" { // this program's own hidden command
			cfg.Command = []string{self, "peer", p.Name}
			cfg.Args = []string{"--pool=" + strconv.Itoa(way.Pool), "--redis=" + at.redis}
			return cfg
		}
		cfg.Args = []string{"--log-level=warn", "--mysql-pool=" + strconv.Itoa(way.Pool)}
		if pprof != nil {
			cfg.Args = append(cfg.Args, "--pprof-addr="+pprof[i].Addr)
		}
		return cfg
	})
	return f, pprof, err
}

// sellers is the number of concurrent requests that put SKUs on sale.
const sellers = 8

// putOnSale creates the load's SKUs with units for that many orders: at the first
// replica, or at each replica if they share no store.
func (b *bench) putOnSale(ctx context.Context, p peer.Peer, f *sandbox.Fleet, load *Load, orders int) error {
	at := f.Replicas[:1]
	if p.Store == peer.Nowhere {
		at = f.Replicas
	}
	client := attack.NewClient(sellers)
	defer client.CloseIdleConnections()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sellers)
	for _, r := range at {
		service := &attack.Service{URL: r.URL, AdminToken: b.adminToken, Client: client}
		for i, item := range load.Items {
			group.Go(func() error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return service.PutOnSale(ctx, item.SKU, load.units(i, orders))
			})
		}
	}
	return group.Wait()
}
