package sandboxtest

import (
	"testing"

	"flashsale/internal/sandbox"
)

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
	tb.Cleanup(func() {
		if err := fleet.Stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			for _, r := range fleet.Replicas {
				tb.Logf("%s logged last:\n%s", r.Name, r.LogTail(shownLines))
			}
		}
	})
	return fleet
}
