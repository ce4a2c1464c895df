package herd

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAHerdCostsAsMuchAsItIsLong(t *testing.T) {
	var said strings.Builder
	began := time.Now()
	r, err := Run(t.Context(), &said)
	t.Logf("%s\n%s%+v", time.Since(began).Round(time.Millisecond), &said, r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Herd < Waiters {
		t.Errorf("a release costs %d requests where %d are woken", r.Herd, Waiters)
	}
	if r.Predecessor > Limit {
		t.Errorf("a release costs %d requests where one is woken, want at most %d", r.Predecessor, Limit)
	}
}
