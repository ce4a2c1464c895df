package order_test

import (
	"path/filepath"
	"testing"

	"flashsale/internal/mutant"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// A test that has never failed may test nothing. Each mutant breaks the service in one
// place, and a test must fail.
func TestEachMutantIsCaught(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "a test program built for each mutant")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// One for all of them, which take turns: each drops the databases of the one before.
	shared := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	env := []string{sandbox.MySQLVar + "=" + shared.MySQL.DSN(""), sandbox.EtcdVar + "=" + shared.Etcd[0].Endpoint}
	for _, m := range mutant.All {
		t.Run(m.Name, func(t *testing.T) {
			// Goroutines of a busy machine may come one after the other, where a test has to
			// make them meet: it has three tries.
			const tries = 3
			for try := 1; ; try++ {
				failed, output, err := mutant.RunTest(t.Context(), root, t.TempDir(), &m, env...)
				if err != nil {
					t.Fatal(err)
				}
				if failed {
					return
				}
				if try == tries {
					t.Fatalf("%s does not fail:\n%s", m.Test, output)
				}
				t.Logf("%s did not fail at try %d", m.Test, try)
			}
		})
	}
}
