package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/lockserver"
)

type upCmd struct {
	replicaFlags
	databaseFlags
	clusterFlags
	EtcdNodes     int           `name:"etcd-nodes" default:"1" enum:"1,3" placeholder:"1|3" help:"Nodes of the etcd cluster (default ${default})."`
	LockTTL       time.Duration `name:"lock-ttl" default:"0" placeholder:"D" help:"How long a lock outlives a replica that died. 0 is the service's default."`
	PaymentWindow time.Duration `default:"0" placeholder:"D" help:"How long an order stays reserved without payment. 0 is the service's default."`
	Strategy      string        `default:"${strategy}" placeholder:"NAME" help:"How orders are guarded (default ${default}): ${strategies}."`
	Fence         string        `default:"claim" placeholder:"off|write|claim" help:"What MySQL does with fencing tokens (default ${default})."`
	Out           string        `default:"out" placeholder:"DIR" help:"Folder for sandbox.json (default ${default})."`
}

// sandboxFile describes what runs, for programs that want to use it.
const sandboxFile = "sandbox.json"

// sandboxDescription is the contents of sandboxFile.
type sandboxDescription struct {
	Replicas      []string `json:"replicas"`
	MySQLDSN      string   `json:"mysql_dsn"`
	EtcdEndpoints []string `json:"etcd_endpoints"`
	// LockFlags tell the service's programs where the strategy's locks are.
	LockFlags  []string    `json:"lock_flags"`
	AdminToken string      `json:"admin_token"`
	JWTSecret  string      `json:"jwt_secret"`
	Pids       sandboxPids `json:"pids"`
}

type sandboxPids struct {
	Replicas []int `json:"replicas"`
	MySQL    int   `json:"mysql"`
	// MySQLNodes are all servers of a cluster, of which MySQL is the first.
	MySQLNodes []int `json:"mysql_nodes,omitempty"`
	Etcd       []int `json:"etcd"`
}

const (
	demoSKU   = "demo"
	demoUnits = 100
)

// Run serves until ctx ends, which is how it is meant to end.
func (c *upCmd) Run(ctx context.Context, s streams) error {
	cfg, err := c.replica()
	if err != nil {
		return err
	}
	path := filepath.Join(c.Out, sandboxFile)
	// One that a killed run left behind would be taken for this one's.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	row, err := strategy.Find(c.Strategy)
	if err != nil {
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
	defer stack.Stop()
	nameDatabase(s, stack.Database())
	lockFlags, stop, err := startLockServer(ctx, row, stack)
	if err != nil {
		return err
	}
	defer stop()
	cfg.Args = append(cfg.Args, lockFlags...)
	if cfg.MySQLDSN, err = stack.CreateDatabase(ctx, "flashsale"); err != nil {
		return err
	}
	fleet, err := startFleet(ctx, cfg, c.Replicas)
	if err != nil {
		return err
	}
	service := &attack.Service{URL: fleet.Replicas[0].URL, AdminToken: fleet.AdminToken}
	if err := service.PutOnSale(ctx, demoSKU, demoUnits); err != nil {
		return errors.Join(err, fleet.Stop())
	}
	description := describe(stack, fleet, cfg.MySQLDSN)
	description.LockFlags = lockFlags
	if err := saveDescription(path, description); err != nil {
		return errors.Join(err, fleet.Stop())
	}
	if err := c.greet(s, row, description); err != nil {
		return errors.Join(err, os.Remove(path), fleet.Stop())
	}
	watchFleet(ctx, s, fleet)
	fmt.Fprintln(s.err, "Stopping ...")
	return errors.Join(os.Remove(path), fleet.Stop())
}

// startLockServer runs what a strategy locks in, unless the stack has it, and
// returns the flags by which a program finds it.
func startLockServer(ctx context.Context, row strategy.Strategy, stack *sandbox.Stack) (flags []string, stop func(), err error) {
	switch row.Server {
	case strategy.InMySQL:
		return []string{}, func() {}, nil
	case strategy.InEtcd:
		at := backend.Servers{EtcdEndpoints: stack.EtcdEndpoints(), Prefix: lockserver.Prefix}
		return at.Flags(), func() {}, nil
	}
	at, err := lockserver.Start(ctx, row.Server)
	if err != nil {
		return nil, nil, err
	}
	return at.Servers.Flags(), func() { _ = at.Stop() }, nil // it is private, and ends with this process
}

// replica checks the flags and makes of them what all replicas share.
func (c *upCmd) replica() (sandbox.ReplicaConfig, error) {
	var cfg sandbox.ReplicaConfig
	row, err := strategy.Find(c.Strategy)
	if err != nil {
		return cfg, fmt.Errorf("--strategy: %w", err)
	}
	fence, err := strategy.ParseFence(c.Fence)
	if err != nil {
		return cfg, fmt.Errorf("--fence: %w", err)
	}
	cfg = sandbox.ReplicaConfig{Strategy: row.Name, Fence: string(row.FenceFor(fence))}
	for _, flag := range []struct {
		name  string
		value time.Duration
	}{{"--lock-ttl", c.LockTTL}, {"--payment-window", c.PaymentWindow}} {
		if flag.value < 0 {
			return cfg, fmt.Errorf("%s must not be negative: %s", flag.name, flag.value)
		}
		if flag.value > 0 {
			cfg.Args = append(cfg.Args, flag.name+"="+flag.value.String())
		}
	}
	if err := c.check(); err != nil {
		return cfg, err
	}
	cfg.Program = c.API // check may have found it in PATH
	return cfg, nil
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

// saveDescription makes the file appear as a whole, as programs wait for it. It
// holds secrets: only its owner may read it.
func saveDescription(path string, d sandboxDescription) error {
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// greet says what runs, and how to buy something, in a line that works.
func (c *upCmd) greet(s streams, row strategy.Strategy, d sandboxDescription) error {
	token, err := attack.Token("you", d.JWTSecret)
	if err != nil {
		return err
	}
	for i, url := range d.Replicas {
		fmt.Fprintf(s.out, "replica-%d  %s\n", i+1, url)
	}
	// Behind the #, which no server is sent, nor writes into its log.
	fmt.Fprintf(s.out, `
The shop, for a customer called you:

  %s/#token=%s

%d units of the SKU %q are on sale. Buy one:

  curl -si %s/v1/orders -H 'Authorization: Bearer %s' -H 'Idempotency-Key: first' -H 'Content-Type: application/json' -d '{"sku":"%s","quantity":1}'
`, d.Replicas[0], token, demoUnits, demoSKU, d.Replicas[0], token, demoSKU)
	if backend.TellsOwner(row) {
		fmt.Fprintf(s.out, "\nSee who holds which lock:\n\n  %s\n", strings.Join(append([]string{c.API, "locks", "--mysql-dsn='" + d.MySQLDSN + "'"}, d.LockFlags...), " "))
	}
	_, err = fmt.Fprintf(s.out, "\nAddresses and secrets of everything that runs are in %s. Ctrl-C ends it.\n", filepath.Join(c.Out, sandboxFile))
	return err
}

// watchFleet waits for ctx's end, and says so when a replica ends: it may have
// been killed to see what happens, so the others go on.
func watchFleet(ctx context.Context, s streams, f *sandbox.Fleet) {
	ended := make(chan string)
	for _, r := range f.Replicas {
		go func() {
			select {
			case <-r.Done():
				select {
				case ended <- r.Name:
				case <-ctx.Done():
				}
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case name := <-ended:
			fmt.Fprintf(s.err, "%s has ended; the others go on\n", name)
		case <-ctx.Done():
			return
		}
	}
}
