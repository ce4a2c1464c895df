package model

import (
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestLockHolds(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	for name, macros := range map[string]string{"two replicas": "", "three replicas": "-DREPLICAS=3"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			search{file: "lock.pml", macros: strings.Fields(macros)}.holds(t)
			// Replicas that cannot reach each other must not evict each other for ever.
			search{file: "lock.pml", macros: strings.Fields(macros), endless: true}.holds(t)
		})
	}
}

func TestLockNeedsEachRule(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	for mutant, want := range map[string]string{
		"-DONE_HOLDER":    "(token[i]==0)",
		"-DNO_FENCE":      "(fence==token[r])",
		"-DEVICT_BY_NAME": "(key[first]==saw[r])",
		"-DEVICT_FIRST":   "(evicted!=(r+1))",
	} {
		t.Run(mutant, func(t *testing.T) {
			t.Parallel()
			search{file: "lock.pml", macros: []string{mutant}}.breaks(t, want)
		})
	}
	for _, mutant := range []string{"-DNO_PATIENCE", "-DSLOW=2 -DLONGEST=4"} {
		t.Run(mutant, func(t *testing.T) {
			t.Parallel()
			search{file: "lock.pml", macros: strings.Fields(mutant), endless: true}.breaks(t, "non-progress cycle")
		})
	}
}
