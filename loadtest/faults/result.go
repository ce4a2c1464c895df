package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/history"
	"flashsale/loadtest/proof"
)

// Result is the outcome of a run.
type Result struct {
	Name string `json:"name"`
	// Injected says what failed.
	Injected string `json:"injected"`
	Run      int    `json:"run"`
	Seed     uint64 `json:"seed"`
	Database string `json:"database"`
	// Network says by what links were cut; "" if none were.
	Network string `json:"network,omitempty"`
	// HealedInMS is the time from the end of the fault until every replica had sold an
	// order, and BoundMS what it may take.
	HealedInMS float64 `json:"healed_in_ms"`
	BoundMS    float64 `json:"bound_ms"`
	// NoSaleMS is the longest time without a sale, from the fault to the end of the run,
	// and WaitMS the longest wait of a buyer whose answer came after the fault.
	NoSaleMS float64 `json:"no_sale_ms"`
	WaitMS   float64 `json:"wait_ms"`
	// Sold counts the orders of the hot SKU, and Reasons all other answers to them, by
	// kind.
	Sold    int            `json:"sold"`
	Reasons []proof.Reason `json:"reasons"`
	// Mixed is what came of the mixed calls.
	Mixed history.Report `json:"mixed"`
	// Violations are what no fault excuses, and Wrong those that no slow machine explains.
	// Notes are what else people should know.
	Violations []string  `json:"violations"`
	Wrong      []string  `json:"wrong,omitempty"`
	Notes      []string  `json:"notes,omitempty"`
	OK         bool      `json:"ok"`
	Timeline   *Timeline `json:"timeline"`
}

// assess measures the load and checks everything.
func (r *run) assess(ctx context.Context, load *attack.Result, calls *history.History) error {
	if !r.restarts && !r.sameProcesses() {
		r.violate("a replica was started again")
	}
	if err := r.fleet.Dead(); err != nil {
		r.violate("%s", err)
	}
	dsn, err := r.readFrom(ctx)
	if err != nil {
		return err
	}
	records, err := proof.ReadRecords(ctx, dsn, r.hots)
	if err != nil {
		return err
	}
	found := proof.Reconcile(func(seq int) attack.Order { return r.asked[seq] }, r.answers, records)
	found.Unserved = 0 // units are left on purpose
	for _, example := range found.Examples {
		r.violate("%s", example)
	}
	if v := proof.Judge(found.Counts, found.Findings); v != strategy.Exact {
		r.violate("the orders of the hot SKU: %s", v)
	}
	if err := r.audit(ctx, dsn); err != nil {
		return err
	}
	if found.SoldOut > 0 {
		r.violate("orders refused as sold out, though a billion units were left: %d", found.SoldOut)
	}
	for _, reason := range found.Reasons {
		if !r.excuses(reason) {
			r.violate("answers %d %s to orders: %d", reason.Status, reason.Slug, reason.Count)
		}
	}
	fault := r.at.Sub(load.Began)
	r.result.NoSaleMS, r.result.WaitMS = ms(attack.LongestGap(load.Answers, fault)), ms(attack.LongestWait(load.Answers, fault))
	r.result.Sold, r.result.Reasons = found.Accepted, found.Reasons
	r.result.Timeline = r.timeline.done()
	if r.result.Mixed, err = calls.Check(ctx, dsn); err != nil {
		return err
	}
	for _, v := range r.result.Mixed.Violations {
		r.violate("%s", v)
	}
	if r.Visual != "" && len(r.result.Mixed.Violations) > 0 {
		paths, err := calls.Visualize(r.Visual)
		if err != nil {
			return err
		}
		r.note("drawn: %s", strings.Join(paths, ", "))
	}
	if r.Config.Scenario.verify != nil {
		return r.Config.Scenario.verify(ctx, r)
	}
	return nil
}

// audit checks all SKUs in the database.
func (r *run) audit(ctx context.Context, dsn string) error {
	db, err := stock.Open(dsn, 1)
	if err != nil {
		return err
	}
	report, err := stock.Audit(ctx, db)
	for _, v := range report.Violations {
		r.violate("%s: %s: %s", v.SKU, v.Invariant, v.Detail)
	}
	return errors.Join(err, db.Close())
}

// excuses reports whether a fault may cause such an answer.
func (r *run) excuses(reason proof.Reason) bool {
	switch reason.Status {
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case 0:
		return r.Config.Scenario.silent
	}
	return false
}

// readFrom returns the DSN of the server to read the rows from: in a cluster one that
// takes writes, as the others may lag behind.
func (r *run) readFrom(ctx context.Context) (string, error) {
	if r.stack.Cluster == nil {
		return r.stack.MySQL.DSN(databaseName), nil
	}
	primary, err := r.stack.Cluster.Primary(ctx)
	if err != nil {
		return "", err
	}
	return r.stack.Cluster.Nodes[primary].DSN(databaseName), nil
}

// ms keeps three decimal places: microseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// String describes the run in a line, and what is wrong in further lines.
func (r *Result) String() string {
	verdict := "ok"
	if !r.OK {
		verdict = "VIOLATIONS: " + fmt.Sprint(len(r.Violations))
	}
	text := fmt.Sprintf("%-22s %s: sells %.2f s after its end (bound %.1f s), no sale for %.2f s, %d sold, %d mixed calls on %d SKUs linearizable: %s",
		r.Name, r.Injected, r.HealedInMS/1e3, r.BoundMS/1e3, r.NoSaleMS/1e3, r.Sold, r.Mixed.Calls, r.Mixed.SKUs, verdict)
	const shown = 20
	for _, v := range r.Violations[:min(len(r.Violations), shown)] {
		text += "\n    " + v
	}
	if more := len(r.Violations) - shown; more > 0 {
		text += fmt.Sprintf("\n    and %d more", more)
	}
	for _, n := range r.Notes {
		text += "\n    note: " + n
	}
	return text
}
