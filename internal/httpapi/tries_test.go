package httpapi

import (
	"fmt"
	"testing"
)

func TestTriesAreBounded(t *testing.T) {
	t.Parallel()
	var all tries
	for i := range 3 * maxTries {
		key := fmt.Sprint(i)
		for try, want := range []bool{true, true, false} {
			if got := all.next("ann", key, 2); got != want {
				t.Fatalf("try %d of key %s is provoked: %v, want %v", try, key, got, want)
			}
		}
		if len(all.seen) > maxTries {
			t.Fatalf("%d keys are remembered, want at most %d", len(all.seen), maxTries)
		}
	}
}
