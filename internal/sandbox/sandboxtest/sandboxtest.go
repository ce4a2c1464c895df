// Package sandboxtest starts sandboxes, builds the module's programs and runs
// replicas for tests. A missing server is a failure, never a skip. What a test's
// MariaDB was sent has to be MySQL 8 as well, or the test fails at its end.
package sandboxtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"flashsale/internal/sandbox"
)

// Start starts servers that end with the test. The logs of those that have one
// are not shown: see Stack.Dir while the test runs.
func Start(tb testing.TB, cfg sandbox.Config) *sandbox.Stack {
	tb.Helper()
	cfg, err := withEtcdProgram(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.LogStatements = !benchmarking()
	stack, err := sandbox.Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("start the servers: %v", err)
	}
	tb.Cleanup(func() {
		if err := checkStatements(stack); err != nil {
			tb.Error(err)
		}
		stack.Stop()
	})
	return stack
}

// Main runs all tests of a package on one set of servers, which it puts into
// *stack before the first. It is for a TestMain, and does not return:
//
//	var servers *sandbox.Stack
//
//	func TestMain(m *testing.M) {
//		sandboxtest.Main(m, sandbox.Config{MySQL: true}, &servers)
//	}
func Main(m *testing.M, cfg sandbox.Config, stack **sandbox.Stack) {
	os.Exit(run(m, cfg, stack))
}

func run(m *testing.M, cfg sandbox.Config, stack **sandbox.Stack) int {
	cfg, err := withEtcdProgram(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	flag.Parse()
	cfg.LogStatements = !benchmarking()
	s, err := sandbox.Start(context.Background(), cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the servers:", err)
		return 1
	}
	defer s.Stop()
	*stack = s
	status := m.Run()
	if err := checkStatements(s); err != nil {
		fmt.Fprintf(os.Stderr, "--- FAIL: what the tests sent to MariaDB\n%v\n", err)
		status = max(status, 1)
	}
	return status
}

// benchmarking reports whether something is measured: a log of all statements
// would be measured, too.
func benchmarking() bool {
	bench := flag.Lookup("test.bench")
	return bench != nil && bench.Value.String() != ""
}

// checkStatements holds against MySQL 8's grammar what the tests made the service,
// and themselves, send.
func checkStatements(s *sandbox.Stack) error {
	if s.MySQL == nil || s.MySQL.StatementLog == "" {
		return nil
	}
	if _, err := os.Stat(s.Dir()); errors.Is(err, os.ErrNotExist) {
		return nil // the test stopped it, and its folder is gone
	}
	program, err := build("checklog")
	if err != nil {
		return err
	}
	if out, err := exec.Command(program, s.MySQL.StatementLog).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// StartReplica starts a replica that ends with the test, of Build's api if no
// program is named. The end of its log is shown if the test has failed.
func StartReplica(tb testing.TB, cfg sandbox.ReplicaConfig) *sandbox.Replica {
	tb.Helper()
	if cfg.Program == "" {
		cfg.Program = Build(tb, "api")
	}
	replica, err := sandbox.StartReplica(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		// A test's context has ended by now; Stop has a bound of its own.
		if err := replica.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("replica %s logged last:\n%s", cfg.Replica, replica.LogTail(shownLines))
		}
	})
	return replica
}

// shownLines of a replica's log help after a failure, and do not bury it.
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
