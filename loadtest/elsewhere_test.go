package main

import (
	"os"
	"os/exec"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

// attack runs on every system. Commands that start servers report that they need Linux.
func TestProgramsBuildForOtherSystems(t *testing.T) {
	tier.OnlyTestAll(t, "minutes to compile everything for two more systems")
	for _, system := range []string{"windows", "darwin"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", t.TempDir(), "./loadtest", "./cmd/api")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("GOOS=%s: %v\n%s", system, err, out)
		}
	}
}
