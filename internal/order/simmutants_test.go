package order_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

const dbFile, checksFile, tenureFile = "internal/order/simdb_test.go", "internal/order/refusals.go", "internal/order/tenure.go"

// simMutants must each break an invariant within mutantSeeds seeds of the simulation.
// Those of simdb_test.go stand for SQL.
var simMutants = []struct {
	name  string
	edits map[string][2]string
}{
	{"the batch's UPDATE does not compare the fence", map[string][2]string{takeFile: noFence}},
	{"the batch's UPDATE does not compare seq", map[string][2]string{takeFile: noSeq}},
	{"the batch's UPDATE does not compare available units", map[string][2]string{takeFile: {`{"available", func(s *Stock) int64 { return s.Available }, ">=", t.Units},`, ``}}},
	{"a claim admits an older token", map[string][2]string{dbFile: {`row.Fence < uint64(claim.Token) {`, `row.Fence != uint64(claim.Token) {`},
		claimFile: {`row.Fence > uint64(c.Token) {`, `false {`}}},
	{"orders are answered before their commit", map[string][2]string{sellFile: {`t.cfg.At(BeforeCommit)`, `for i, b := range d.accepted { t.placed(b, d.orders[i]) }; t.cfg.At(BeforeCommit)`}}},
	{"units are returned twice", map[string][2]string{dbFile: {`o.Status != Reserved ||`, `o.Status != Reserved && o.Status != Cancelled ||`}}},
	{"a refusal comes before a replay", map[string][2]string{sellFile: {`if o, ok := c.found[b.order.key()]; ok {`, `if o, ok := c.found[b.order.key()]; ok && o.Seq == 0 {`}}},
	{"a refusal does not compare the row", map[string][2]string{checksFile: {`c.claim.Fence != strategy.FenceClaim || ok && v == version{uint64(c.claim.Token), c.row.Seq}`, `c.claim.Fence != strategy.FenceClaim || ok || v.seq > 0`}}},
	{"an order is sent again under another key", map[string][2]string{routeFile: {`ds.cfg.Metrics.Moved.Inc()`, `ds.cfg.Metrics.Moved.Inc(); r.Key += "again"; r.id = newID()`}}},
	{"an unknown commit counts as failed", map[string][2]string{sellFile: {`found, err := settle(ctx, t.cfg.database, t.desk.sku, ids)`, `var found []Order; err := ctx.Err()`}}},
	{"an unknown commit counts as done", map[string][2]string{sellFile: {`found, err := settle(ctx, t.cfg.database, t.desk.sku, ids)`,
		`var found []Order; err := ctx.Err(); for _, o := range d.orders { found = append(found, *o) }`}}},
	{"settling does not move seq", map[string][2]string{dbFile: {"		db.stock[sku].Seq++\n		db.changed(sku)\n		for", "		for"}}},
	{"a settled order is answered as it was decided", map[string][2]string{sellFile: {`b.answer(replayOf(found[at], b.order.Request))`, `t.placed(b, d.orders[i])`}}},
	{"keys are not unique", map[string][2]string{dbFile: {`if db.byKey[k] != nil || keys[k] {`, `if keys[k] {`}}},
	{"the limit counts one batch only", map[string][2]string{sellFile: {`t.holds[o.Customer]+takes[o.Customer]+n`, `takes[o.Customer]+n`}}},
	{"a tenure goes on after a newer claim", map[string][2]string{tenureFile: {"		if errors.Is(err, stock.ErrFenced) {\n			return nil", "		if errors.Is(err, stock.ErrFenced) {\n			continue"}}},
	{"what customers hold is not read again", map[string][2]string{tenureFile: {"	t.holds = nil\n", ""}}},
}

// mutantSeeds is how many seeds a mutant has. It stops at the first that fails.
const mutantSeeds = "10000"

func TestSimulationCatchesEachMutant(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "a test program built for each mutant")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range simMutants {
		t.Run(m.name, func(t *testing.T) {
			changed := mutant{edits: m.edits}
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-overlay", changed.overlay(t, root),
				"-run", "^TestSimulation$", "./internal/order", "-seeds", mutantSeeds, "-first")
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestSimulation") {
				t.Fatalf("no seed fails: %v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "seed ") {
					t.Log(strings.TrimSpace(line))
					break
				}
			}
		})
	}
}
