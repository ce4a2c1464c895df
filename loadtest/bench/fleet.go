package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
)

// startFleet starts n replicas of a peer. pprof are their ports for profiles, if any.
func (b *bench) startFleet(ctx context.Context, p peer.Peer, way peer.Way, at servers, n int) (f *sandbox.Fleet, pprof []*sandbox.Port, err error) {
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
			cfg.Args = []string{"--pool=" + strconv.Itoa(way.Pool)}
			if at.redis != nil {
				cfg.Args = append(cfg.Args, "--redis="+at.redis.Addr)
			}
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

// putOnSale creates the load's SKUs at the first replica, or at each without a store.
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

// profile takes CPU profiles over the trial's window. wait waits until they are written.
func (b *bench) profile(ctx context.Context, t *trial, ports []*sandbox.Port) (wait func() error) {
	var all errgroup.Group
	for i, port := range ports {
		name := fmt.Sprintf("%s %s round-%d replica-%d.pprof", t.peer.Name, t.Setting, t.round, i+1)
		path := filepath.Join(b.cfg.Profiles, strings.NewReplacer(" ", "_", ",", "", ":", "-").Replace(name))
		all.Go(func() error {
			if err := sleep.For(ctx, t.warmUp); err != nil {
				return err
			}
			if err := saveProfile(ctx, port.Addr, t.window, path); err != nil {
				return fmt.Errorf("profile replica %d: %w", i+1, err)
			}
			return nil
		})
	}
	return all.Wait
}

func saveProfile(ctx context.Context, addr string, window time.Duration, path string) error {
	seconds := max(int(window.Seconds()), 1) // pprof accepts whole seconds only
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, seconds)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	request.Close = true // the connection is not reused
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	profile, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, profile)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, profile, 0o600)
}
