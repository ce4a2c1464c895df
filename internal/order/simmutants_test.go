package order_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/mutant"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

const (
	simSell, simTenure   = "internal/order/sell.go", "internal/order/tenure.go"
	simModel             = "internal/order/simdb_test.go"
	simSettle, simPlaced = `found, err := settle(ctx, t.cfg.database, t.desk.sku, ids)`, `b.answer(replayOf(found[at], b.order.Request))`
)

// shared are the mutants of mutant.All that the simulation must catch, too. The others
// change SQL, or what is not in the simulation.
var shared = []string{"no-compare", "no-fence-compare", "no-seq-compare", "no-quantity-guard", "refusal-before-replay", "refusal-from-memory", "answer-before-commit",
	"resend-under-new-key", "no-settle", "unknown-as-503"}

// simMutants are further ones. Those of the simulated MySQL stand for SQL.
var simMutants = []mutant.Mutant{
	{Name: "units-not-compared", Edits: []mutant.Edit{{File: "internal/stock/take.go", Old: `{"available", func(s *Stock) int64 { return s.Available }, ">=", t.Units},`}}},
	{Name: "claim-of-an-older-token", Edits: []mutant.Edit{
		{File: simModel, Old: `row.Fence < uint64(claim.Token) {`, New: `row.Fence != uint64(claim.Token) {`},
		{File: "internal/stock/claim.go", Old: `row.Fence > uint64(c.Token) {`, New: `row.Fence > uint64(c.Token) && c.Token == 0 {`}}},
	{Name: "units-returned-twice", Edits: []mutant.Edit{{File: simModel, Old: `o.Status != Reserved ||`, New: `o.Status != Reserved && o.Status != Cancelled ||`}}},
	{Name: "keys-not-unique", Edits: []mutant.Edit{{File: simModel, Old: `if db.byKey[k] != nil || keys[k] {`, New: `if keys[k] {`}}},
	{Name: "settling-moves-no-seq", Edits: []mutant.Edit{{File: simModel, Old: "		db.stock[sku].Seq++\n		db.changed(sku)\n		for", New: "		for"}}},
	{Name: "unknown-as-failed", Edits: []mutant.Edit{{File: simSell, Old: simSettle, New: `var found []Order; err := ctx.Err()`}}},
	{Name: "unknown-as-done", Edits: []mutant.Edit{{File: simSell, Old: simSettle, New: `var found []Order; err := ctx.Err(); for _, o := range d.orders { found = append(found, *o) }`}}},
	{Name: "settled-as-decided", Edits: []mutant.Edit{{File: simSell, Old: simPlaced, New: `t.placed(b, d.orders[i])`}}},
	{Name: "limit-of-a-batch", Edits: []mutant.Edit{{File: simSell, Old: `t.holds[o.Customer].units+takes[o.Customer]+n`, New: `takes[o.Customer]+n`}}},
	{Name: "long-back-off", Edits: []mutant.Edit{{File: "internal/order/desk.go",
		Old: "deskBackoff    = 20 * time.Millisecond\n\tdeskMaxBackoff = time.Second", New: "deskBackoff    = 10 * time.Second\n\tdeskMaxBackoff = time.Hour"}}},
	{Name: "cancelled-units-forgotten", Edits: []mutant.Edit{{File: simModel, Old: `(policy != stock.Strict ||`, New: `(true ||`}}},
	{Name: "cancelled-units-remembered", Edits: []mutant.Edit{{File: simSell, Old: "t.forgetFull()\n", New: ""}}},
	{Name: "unpaid-not-looked-up", Edits: []mutant.Edit{{File: simModel, Old: `if most := group[0].maxUnpaid; most > 0 {`, New: `if most := group[0].maxUnpaid; most > 9 {`},
		{File: simSell, Old: `unpaid[o.Customer] >= t.cfg.MaxUnpaid`, New: `unpaid[o.Customer] > t.cfg.MaxUnpaid`}}},
	{Name: "holds-not-read-again", Edits: []mutant.Edit{{File: simTenure, Old: "	t.holds = nil\n"}}},
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
	all, err := mutant.Find(shared)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(simMutants, all...) {
		t.Run(m.Name, func(t *testing.T) {
			overlay, err := m.Overlay(root, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-overlay", overlay, "-run", "^TestSimulation$", "./internal/order", "-seeds", mutantSeeds, "-first")
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
