package faults

import (
	"os"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// TestNothingIsLostWhenADatabaseServerFails makes one run of each fault. It logs the
// times and does not check them, as other tests run at the same time.
func TestNothingIsLostWhenADatabaseServerFails(t *testing.T) {
	servers := sandbox.Config{MySQL: true, MySQLNodes: 3, EtcdNodes: 1}
	if os.Geteuid() == 0 {
		servers.Network = sandbox.Namespaces
	}
	stack := sandboxtest.Start(t, servers)
	const name = "flashsale"
	dsn, err := stack.CreateDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	fleet := sandboxtest.StartFleet(t, sandbox.ReplicaConfig{MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(), Args: []string{"--log-level=warn"}}, 3)
	cfg := Config{DSN: dsn, Cluster: stack.Cluster, Network: stack.Network, Name: name, Fleet: fleet, Rate: 50, Buyers: 16}
	if stack.MySQL.Product == sandbox.MariaDB {
		checkLocksOfOneNodeAreRefused(t, stack)
	}
	list, err := Database.Find(Database.Names())
	if err != nil {
		t.Fatal(err)
	}
	for i, fault := range list {
		if fault.Network != servers.Network && fault.Network != sandbox.Loopback {
			t.Logf("%s needs root", fault.Name)
			continue
		}
		cfg.Fault, cfg.SKU, cfg.Seed = fault, fault.Name, uint64(i+1)<<24
		result, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", fault.Name, err)
		}
		t.Logf("%s: %s", stack.Database(), &result)
		if !result.OK() || result.Paid == 0 {
			t.Errorf("%s: got %+v", fault.Name, result)
		}
	}
}

// checkLocksOfOneNodeAreRefused: each node of Galera would grant such a lock, so two
// replicas would hold it.
func checkLocksOfOneNodeAreRefused(t *testing.T, stack *sandbox.Stack) {
	t.Helper()
	dsn, err := stack.CreateDatabase(t.Context(), "locks")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"get-lock", "lock-row"} {
		r, err := sandbox.StartReplica(t.Context(), sandbox.ReplicaConfig{
			Program: sandboxtest.Build(t, "api"), Replica: name, Strategy: name, MySQLDSN: dsn, AdminToken: sandbox.Secret(), JWTSecret: sandbox.Secret(),
		})
		if err == nil {
			r.Kill()
		}
		if want := "--strategy " + name; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "3 servers") {
			t.Errorf("%s on three nodes of Galera: got %v, want an error with %q", name, err, want)
		}
	}
}
