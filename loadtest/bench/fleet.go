package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
)

// fleet is the replicas of one run.
type fleet struct {
	replicas []*sandbox.Replica
	pprof    []*sandbox.Port // of the service's replicas when they are profiled
}

// backends are the servers that a run's replicas are given.
type backends struct {
	dsn   string
	etcd  []string
	redis string
}

// startFleet starts n replicas at the same time. On an error none is left.
func (b *bench) startFleet(ctx context.Context, p peer.Peer, way peer.Way, at backends, n int) (*fleet, error) {
	f := &fleet{}
	if b.cfg.Profiles != "" && way.Strategy != "" {
		var err error
		if f.pprof, err = sandbox.ReservePorts(n); err != nil {
			return nil, err
		}
	}
	started := make([]*sandbox.Replica, n)
	group, ctx := errgroup.WithContext(ctx)
	for i := range started {
		group.Go(func() (err error) {
			name := fmt.Sprintf("replica-%d", i+1)
			if way.Strategy == "" {
				started[i], err = b.startPeer(ctx, name, p, way, at)
			} else {
				started[i], err = b.startService(ctx, name, way, at, f.pprofOf(i))
			}
			return err
		})
	}
	err := group.Wait()
	for _, r := range started {
		if r != nil {
			f.replicas = append(f.replicas, r)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

func (b *bench) startService(ctx context.Context, name string, way peer.Way, at backends, pprof string) (*sandbox.Replica, error) {
	return sandbox.StartReplica(ctx, sandbox.ReplicaConfig{
		Program: b.cfg.API, Replica: name, MySQLDSN: at.dsn, EtcdEndpoints: at.etcd,
		Strategy: way.Strategy, AdminToken: b.adminToken, JWTSecret: b.jwtSecret,
		Args: []string{"--log-level=warn", "--mysql-pool=" + strconv.Itoa(way.Pool), "--pprof-addr=" + pprof},
	})
}

// startPeer runs this program's own hidden command, as a process like any replica.
func (b *bench) startPeer(ctx context.Context, name string, p peer.Peer, way peer.Way, at backends) (*sandbox.Replica, error) {
	reserved, err := sandbox.ReservePort()
	if err != nil {
		return nil, err
	}
	program := b.cfg.PeerProgram
	if len(program) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program, to serve a peer: %w", err)
		}
		program = []string{self, "peer"}
	}
	r := &sandbox.Replica{Name: name, URL: "http://" + reserved.Addr}
	r.Process, err = sandbox.StartProcess(ctx, sandbox.ProcessConfig{
		Name: name + " of " + p.Name,
		Argv: append(program[:len(program):len(program)], p.Name, "--addr="+reserved.Addr, "--replica="+name, "--pool="+strconv.Itoa(way.Pool),
			"--etcd-endpoints="+strings.Join(at.etcd, ","), "--redis="+at.redis),
		Env: []string{
			"FLASHSALE_MYSQL_DSN=" + at.dsn, "FLASHSALE_ADMIN_TOKEN=" + b.adminToken, "FLASHSALE_JWT_SECRET=" + b.jwtSecret,
		},
		Ports: []*sandbox.Port{reserved},
		Ready: func(ctx context.Context) error { return ready(ctx, r.URL) },
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func ready(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	// Connections are not kept: nobody would close them.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /readyz: %s", response.Status)
	}
	return nil
}

func (f *fleet) urls() []string {
	urls := make([]string, len(f.replicas))
	for i, r := range f.replicas {
		urls[i] = r.URL
	}
	return urls
}

func (f *fleet) pids() []int {
	pids := make([]int, len(f.replicas))
	for i, r := range f.replicas {
		pids[i] = r.Pid()
	}
	return pids
}

// dead is an error that names the replicas which have ended by themselves.
func (f *fleet) dead() error {
	const shownLines = 10
	var all []error
	for _, r := range f.replicas {
		select {
		case <-r.Done():
			all = append(all, fmt.Errorf("%s ended during the run; its log ends:\n%s", r.Name, strings.TrimSpace(r.LogTail(shownLines))))
		default:
		}
	}
	return errors.Join(all...)
}

// stop lets the replicas finish what they are serving and ends them.
func (f *fleet) stop() error {
	errs := make([]error, len(f.replicas))
	var all sync.WaitGroup
	for i, r := range f.replicas {
		// A context of its own: the run's may have ended, which is why we stop.
		all.Go(func() { errs[i] = r.Stop(context.Background()) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// sellers put SKUs on sale at the same time.
const sellers = 8

// putOnSale creates the load's SKUs, with units for so many orders: at the first
// replica, and at each where nothing is shared.
func (b *bench) putOnSale(ctx context.Context, p peer.Peer, f *fleet, load *Load, orders int) error {
	at := f.replicas[:1]
	if p.Store == peer.Nowhere {
		at = f.replicas
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
