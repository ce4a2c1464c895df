// Package sandboxtest starts sandboxes, builds the module's programs and runs replicas
// for tests. If a server is not installed, the test fails; it is never skipped.
package sandboxtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// Start starts servers that end with the test. Their logs are in Stack.Dir while the
// test runs.
func Start(tb testing.TB, cfg sandbox.Config) *sandbox.Stack {
	tb.Helper()
	cfg, err := withEtcdProgram(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	stack, err := sandbox.Start(tb.Context(), cfg)
	if missing(err) {
		tier.LeaveOut(tb, ownServers)
	}
	if err != nil {
		tb.Fatalf("start the servers: %v", err)
	}
	tb.Cleanup(stack.Stop)
	return stack
}

// ownServers is what tests need that stop a server or change its settings.
const ownServers = "servers of its own, which are not installed"

// missing reports whether servers are not installed on a machine where tests are told
// to use others.
func missing(err error) bool {
	_, missing := errors.AsType[*sandbox.MissingError](err)
	return missing && os.Getenv(sandbox.MySQLVar) != ""
}

// NeedsDatabase skips a test that starts a database by one of our programs, where Start
// would skip it.
func NeedsDatabase(tb testing.TB) {
	tb.Helper()
	if err := sandbox.DatabaseInstalled(); missing(err) {
		tier.LeaveOut(tb, ownServers)
	}
}

// NeedsNode skips a test where this machine's kernel, or this process's rights, cannot run
// a Kubernetes node, as in a container without privileges. The test must fail if only a
// program is missing.
func NeedsNode(tb testing.TB) {
	tb.Helper()
	err := sandbox.CheckMachine(tb.Context())
	if errors.Is(err, context.DeadlineExceeded) {
		tb.Fatal(err)
	}
	if err != nil {
		why := strings.Join(strings.Fields(err.Error()), " ") // in the list, one line is one test
		tier.LeaveOut(tb, "a machine that can run a Kubernetes node: "+why)
	}
}

// OnlyOwn skips a test if its servers are shared with other packages: it stops them or
// changes their settings.
func OnlyOwn(tb testing.TB, servers *sandbox.Stack) {
	tb.Helper()
	if servers.MySQL != nil && servers.MySQL.Shared() || len(servers.Etcd) > 0 && servers.Etcd[0].Shared() {
		tier.LeaveOut(tb, ownServers)
	}
}

// Main runs all tests of a package on one set of servers, which it stores in *stack.
// A TestMain calls it. It does not return:
//
//	var servers *sandbox.Stack
//
//	func TestMain(m *testing.M) {
//		sandboxtest.Main(m, sandbox.Config{MySQL: true}, &servers)
//	}
//
// It uses the servers that sandbox.MySQLVar and sandbox.EtcdVar name, if they are set.
func Main(m *testing.M, cfg sandbox.Config, stack **sandbox.Stack) {
	os.Exit(run(m, cfg, stack, sandbox.StartShared))
}

// MainOwn is Main for tests that stop their servers or change their settings: it never
// uses servers of others.
func MainOwn(m *testing.M, cfg sandbox.Config, stack **sandbox.Stack) {
	os.Exit(run(m, cfg, stack, sandbox.Start))
}

func run(m *testing.M, cfg sandbox.Config, stack **sandbox.Stack, start func(context.Context, sandbox.Config) (*sandbox.Stack, error)) int {
	cfg, err := withEtcdProgram(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	flag.Parse()
	s, err := start(context.Background(), cfg)
	if missing(err) {
		fmt.Fprintln(os.Stderr, "skipped: the tests of this package need servers of their own:", err)
		return tier.LeaveOutPackage(ownServers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the servers:", err)
		return 1
	}
	defer s.Stop()
	*stack = s
	return m.Run()
}

// ReservePort reserves a port until the test ends and returns its address.
func ReservePort(tb testing.TB) string {
	tb.Helper()
	port, err := sandbox.ReservePort()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := port.Close(); err != nil {
			tb.Error(err)
		}
	})
	return port.Addr
}

// StartReplica starts a replica that ends with the test. The default program is
// Build's api. If the test fails, the end of the replica's log is shown.
func StartReplica(tb testing.TB, cfg sandbox.ReplicaConfig) *sandbox.Replica {
	tb.Helper()
	if cfg.Program == "" {
		cfg.Program = Build(tb, "api")
	}
	replica, err := sandbox.StartReplica(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	// The test's context has ended by then; Stop has its own timeout.
	cleanUp(tb, func() error { return replica.Stop(context.Background()) }, replica)
	return replica
}

// StartFleet starts n replicas that all have the settings of cfg and end with the
// test. They run Build's api if cfg names no program. If the test has failed, it logs
// the end of each replica's log.
func StartFleet(tb testing.TB, cfg sandbox.ReplicaConfig, n int) *sandbox.Fleet {
	tb.Helper()
	if cfg.Program == "" {
		cfg.Program = Build(tb, "api")
	}
	fleet, err := sandbox.StartFleet(tb.Context(), n, func(int) sandbox.ReplicaConfig { return cfg })
	if err != nil {
		tb.Fatal(err)
	}
	cleanUp(tb, fleet.Stop, fleet.Replicas...)
	return fleet
}

// cleanUp stops replicas at the test's end. If the test has failed, it logs the end of
// each replica's log.
func cleanUp(tb testing.TB, stop func() error, replicas ...*sandbox.Replica) {
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			for _, r := range replicas {
				tb.Logf("the log of replica %s ends:\n%s", r.Name, r.LogTail(shownLines))
			}
		}
	})
}

// shownLines is how much of a replica's log is shown after a failure.
const shownLines = 40

func withEtcdProgram(cfg sandbox.Config) (sandbox.Config, error) {
	if cfg.EtcdNodes == 0 || cfg.EtcdProgram != nil {
		return cfg, nil
	}
	program, err := build("etcdnode")
	if err != nil {
		return cfg, err
	}
	cfg.EtcdProgram = []string{program}
	return cfg, nil
}
