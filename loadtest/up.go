package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/report"
)

type upCmd struct {
	replicaFlags
	databaseFlags
	clusterFlags
	EtcdNodes     int           `name:"etcd-nodes" default:"1" enum:"1,3" placeholder:"1|3" help:"Nodes of the etcd cluster (default ${default})."`
	LockTTL       time.Duration `name:"lock-ttl" default:"0" placeholder:"D" help:"How long a lock outlives a replica that died; 0 is the service's default."`
	PaymentWindow time.Duration `default:"0" placeholder:"D" help:"How long an order stays reserved without payment; 0 is the service's default."`
	Strategy      string        `default:"${strategy}" placeholder:"NAME" help:"How stock is guarded (default ${default}): one of ${strategies}."`
	Fence         string        `default:"claim" placeholder:"off|write|claim" help:"What MySQL does with fencing tokens (default ${default})."`
	outFlag       `embed:"" set:"file=sandbox.json"`
}

// sandboxFile describes the running stack for other programs.
const sandboxFile = "sandbox.json"

type sandboxDescription struct {
	Replicas      []string `json:"replicas"`
	MySQLDSN      string   `json:"mysql_dsn"`
	EtcdEndpoints []string `json:"etcd_endpoints"`
	// LockFlags are the flags of bin/api that lead to the strategy's lock server.
	LockFlags  []string    `json:"lock_flags"`
	AdminToken string      `json:"admin_token"`
	JWTSecret  string      `json:"jwt_secret"`
	Pids       sandboxPids `json:"pids"`
}

type sandboxPids struct {
	Replicas []int `json:"replicas"`
	MySQL    int   `json:"mysql"`
	// MySQLNodes are all servers of a cluster; MySQL is the first of them.
	MySQLNodes []int `json:"mysql_nodes,omitempty"`
	Etcd       []int `json:"etcd"`
}

const (
	demoSKU   = "demo"
	demoUnits = 100
	demoLimit = 4
)

// Run runs the stack until ctx ends.
func (c *upCmd) Run(ctx context.Context, s streams) error {
	row, cfg, err := c.replica()
	if err != nil {
		return err
	}
	path := filepath.Join(c.Out, sandboxFile)
	// Remove the file of a run that was killed: programs wait for the new one.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := lockserver.Check(row); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "Starting the servers ...")
	needs := sandbox.Config{MySQL: true, Database: c.Database, MySQLNodes: c.MySQLNodes}
	if row.Server == strategy.InEtcd {
		needs.EtcdNodes = c.EtcdNodes
	}
	stack, err := sandbox.Start(ctx, needs)
	if err != nil {
		return err
	}
	nameDatabase(s, stack.Database())
	servers := &servers{stack: stack, etcd: stack.EtcdEndpoints()}
	defer servers.stop()
	at, err := servers.lockServer(ctx, row)
	if err != nil {
		return err
	}
	lockFlags := at.Flags()
	cfg.Args = append(cfg.Args, lockFlags...)
	if cfg.MySQLDSN, err = stack.CreateDatabase(ctx, "flashsale"); err != nil {
		return err
	}
	fleet, err := startFleet(ctx, cfg, c.Replicas)
	if err != nil {
		return err
	}
	service := &attack.Service{URL: fleet.Replicas[0].URL, AdminToken: fleet.AdminToken}
	if err := service.PutOnSaleForPeople(ctx, demoSKU, demoUnits, demoLimit); err != nil {
		return errors.Join(err, fleet.Stop())
	}
	description := describe(stack, fleet, cfg.MySQLDSN)
	description.LockFlags = lockFlags
	// Only the owner may read the file: it holds secrets.
	if err := report.SaveJSON(path, description, 0o600); err != nil {
		return errors.Join(err, fleet.Stop())
	}
	if err := c.greet(s, row, description); err != nil {
		return errors.Join(err, os.Remove(path), fleet.Stop())
	}
	watchFleet(ctx, s, fleet)
	fmt.Fprintln(s.err, "Stopping ...")
	return errors.Join(os.Remove(path), fleet.Stop())
}

func (c *upCmd) replica() (row strategy.Strategy, cfg sandbox.ReplicaConfig, err error) {
	if row, err = strategy.Find(c.Strategy); err != nil {
		return row, cfg, fmt.Errorf("--strategy: %w", err)
	}
	fence, err := strategy.ParseFence(c.Fence)
	if err != nil {
		return row, cfg, fmt.Errorf("--fence: %w", err)
	}
	if err := cmp.Or(atLeast("--lock-ttl", c.LockTTL, 0), atLeast("--payment-window", c.PaymentWindow, 0), c.check()); err != nil {
		return row, cfg, err
	}
	cfg = sandbox.ReplicaConfig{Program: c.API, Strategy: row.Name, Fence: string(row.FenceFor(fence)),
		Args: []string{"--insecure-demo"}} // for its test mode; the secrets are random
	if c.LockTTL > 0 {
		cfg.Args = append(cfg.Args, "--lock-ttl="+c.LockTTL.String())
	}
	if c.PaymentWindow > 0 {
		cfg.Args = append(cfg.Args, "--payment-window="+c.PaymentWindow.String())
	}
	return row, cfg, nil
}

func describe(stack *sandbox.Stack, fleet *sandbox.Fleet, dsn string) sandboxDescription {
	d := sandboxDescription{
		Replicas: fleet.URLs(), MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(),
		AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret,
		Pids: sandboxPids{Replicas: fleet.Pids(), MySQL: stack.MySQL.Pid(), Etcd: []int{}},
	}
	if stack.Cluster != nil {
		for _, m := range stack.Cluster.Nodes {
			d.Pids.MySQLNodes = append(d.Pids.MySQLNodes, m.Pid())
		}
	}
	for _, node := range stack.Etcd {
		d.Pids.Etcd = append(d.Pids.Etcd, node.Pid())
	}
	return d
}

func (c *upCmd) greet(s streams, row strategy.Strategy, d sandboxDescription) error {
	token := attack.Token("you", d.JWTSecret)
	for i, url := range d.Replicas {
		fmt.Fprintf(s.out, "replica-%d  %s\n", i+1, url)
	}
	// The token stands after the #: browsers do not send that part, so no log has it.
	fmt.Fprintf(s.out, `
The shop, as the customer "you" (it asks before it signs you in):

  %s/#token=%s

%d units of the SKU %q are on sale. Buy one:

  curl -si %s/v1/orders -H 'Authorization: Bearer %s' -H 'Idempotency-Key: first' -H 'Content-Type: application/json' -d '{"sku":"%s","quantity":1}'
`, d.Replicas[0], token, demoUnits, demoSKU, d.Replicas[0], token, demoSKU)
	if backend.ShowsHolder(row) {
		fmt.Fprintf(s.out, "\nSee who holds which lock:\n\n  %s\n", strings.Join(append([]string{c.API, "locks", "--mysql-dsn='" + d.MySQLDSN + "'"}, d.LockFlags...), " "))
	}
	_, err := fmt.Fprintf(s.out, "\nThe addresses and secrets of the stack are in %s. Press Ctrl-C to stop it.\n", filepath.Join(c.Out, sandboxFile))
	return err
}

// watchFleet waits until ctx ends. It reports each replica that exits; the others go on,
// as the user may have killed it to see what happens.
func watchFleet(ctx context.Context, s streams, f *sandbox.Fleet) {
	var all sync.WaitGroup
	var printing sync.Mutex
	for _, r := range f.Replicas {
		all.Go(func() {
			select {
			case <-r.Done():
				printing.Lock()
				defer printing.Unlock()
				fmt.Fprintf(s.err, "%s exited; the other replicas go on\n", r.Name)
			case <-ctx.Done():
			}
		})
	}
	<-ctx.Done()
	all.Wait()
}
