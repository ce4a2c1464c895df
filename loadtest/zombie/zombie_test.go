package zombie_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/etcdnode"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/zombie"
)

// holder is the command that makes this test's binary a process of a run.
const holder = "zombie-holder"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == holder || os.Args[1] == "etcd-node") {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		serve := func() error { return zombie.Serve(ctx) }
		if os.Args[1] == "etcd-node" { // Kubernetes stores its objects in etcd
			serve = func() error { return etcdnode.Main(ctx, os.Args[2:], os.Stderr) }
		}
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestOnlyAClaimedFenceStopsEveryStaleWrite runs every lock once under each fence. Without
// a fence, a holder that was stopped past its lease overwrites its successor's write. A
// fence that is compared at the write allows one amid. A claimed fence allows none.
func TestOnlyAClaimedFenceStopsEveryStaleWrite(t *testing.T) {
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	byServer := map[strategy.Server][]strategy.Strategy{}
	for _, s := range strategy.All() {
		if s.Lock != strategy.NoLock {
			byServer[s.Server] = append(byServer[s.Server], s)
		}
	}
	for server, rows := range byServer {
		locks, err := lockserver.Start(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range rows {
			t.Run(s.Name, func(t *testing.T) { checkFences(t, stack.MySQL, locks.Servers, s) })
		}
		if err := locks.Stop(); err != nil { // all of them at once are too much for two cores
			t.Error(err)
		}
	}
}

// checkFences runs a strategy under each of its fences, at the same time: most of a run is
// waiting until a lease expires.
func checkFences(t *testing.T, mysql *sandbox.MySQL, locks backend.Servers, s strategy.Strategy) {
	fences := []strategy.Fence{strategy.FenceOff}
	if s.Token {
		fences = append(fences, strategy.FenceWrite, strategy.FenceClaim)
	}
	var all sync.WaitGroup
	for _, fence := range fences {
		all.Go(func() {
			name := fmt.Sprintf("zombie-%s-%s", s.Name, fence)
			dsn, err := mysql.CreateDatabase(t.Context(), strings.ReplaceAll(name, "-", "_"))
			if err != nil {
				t.Error(err)
				return
			}
			r, err := zombie.Run(t.Context(), zombie.Config{
				Strategy: s, Fence: fence, Name: name, Servers: locks, DSN: dsn, Argv: []string{os.Args[0], holder},
			})
			if err != nil {
				t.Errorf("%s: %v", fence, err)
				return
			}
			ok := r.After.Oversold > 0 && r.Amid.Oversold > 0 && r.TwoHolders > 0
			switch fence {
			case strategy.FenceWrite:
				ok = r.After.Oversold == 0 && r.Amid.Oversold > 0
			case strategy.FenceClaim:
				ok = r.After == zombie.Harm{} && r.Amid == zombie.Harm{}
			case strategy.FenceOff:
			}
			if sum := zombie.Summarize(s, fence, []zombie.Result{r}); !ok || !sum.OK || sum.Fence != fence {
				t.Errorf("%s: got %+v, summarized as %+v", fence, r, sum)
			}
		})
	}
	all.Wait()
}
