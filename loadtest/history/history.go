// Package history puts mixed calls on the replicas and checks that what was answered is
// linearizable: that each SKU behaved as if one replica had served one call after the
// other, each at some moment between its begin and its end.
//
// Traffic makes the calls and records them: new orders, the same keys again at other
// replicas, payments, cancellations, restocks, and reads of orders (reads of a SKU come
// from the mirror, which may be old). Check adds the database as the last operation and
// asks porcupine. A call without an answer happened at some time after it began, if the
// database shows its effect, and otherwise never. So a buyer whose call was lost may be
// refused at another replica before the lost call sells. A 503 has promised that nothing
// was applied, which excludes that.
package history

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"flashsale/loadtest/proof"
)

// decideWithin bounds the check of one SKU, which takes milliseconds. porcupine can be
// exponential: a history that is not decided has not passed.
const decideWithin = 30 * time.Second

// History is all calls that a Traffic made.
type History struct {
	sales  []*sale
	broken []*verdict // of the last Check
}

// Report is the result of a check.
type Report struct {
	SKUs int `json:"skus"`
	// Calls are all, with repeats. Ambiguous are those that may have been applied: no
	// answer, 504 or 500.
	Calls     int `json:"calls"`
	Ambiguous int `json:"ambiguous"`
	// Orders are the rows of orders and restocks.
	Orders     int      `json:"orders"`
	Violations []string `json:"violations"`
	// CheckMS is how long porcupine took for all SKUs, and SlowestMS for one of them.
	CheckMS   float64 `json:"check_ms"`
	SlowestMS float64 `json:"slowest_ms"`
}

// Check reads the rows of the SKUs and checks each SKU's history. An error means that the
// rows could not be read, or that ctx has ended.
func (h *History) Check(ctx context.Context, dsn string) (Report, error) {
	records, err := read(ctx, dsn, h.sales)
	if err != nil {
		return Report{}, err
	}
	return h.check(ctx, records)
}

func (h *History) check(ctx context.Context, records map[string]*record) (Report, error) {
	report := Report{Violations: []string{}}
	h.broken = nil
	accepted := 0
	for _, s := range h.sales {
		r := records[s.sku]
		if r == nil {
			return Report{}, fmt.Errorf("the database has no SKU %s; it is not the database of these replicas", s.sku)
		}
		if len(s.calls) > 0 { // not a spare
			report.SKUs++
		}
		report.Calls += len(s.calls)
		report.Orders += len(r.rows)
		for _, c := range s.calls {
			if c.ambiguous() {
				report.Ambiguous++
			}
			if c.kind == Order && c.Status == 201 {
				accepted++
			}
		}
		models, wrong := modelsOf(s, *r)
		for _, text := range wrong {
			report.Violations = append(report.Violations, s.sku+": "+text)
		}
		began := time.Now()
		verdicts := decide(ctx, models, began.Add(decideWithin))
		took := proof.Millis(time.Since(began))
		if ctx.Err() != nil {
			return Report{}, context.Cause(ctx)
		}
		report.CheckMS += took
		report.SlowestMS = max(report.SlowestMS, took)
		for _, v := range verdicts {
			h.broken = append(h.broken, v)
			report.Violations = append(report.Violations, v.String())
		}
	}
	if accepted == 0 {
		report.Violations = append(report.Violations, "no order was accepted: the history shows nothing")
	}
	return report, nil
}

// Visualize draws each history that did not pass the last Check, as an HTML file in dir.
func (h *History) Visualize(dir string) (paths []string, err error) {
	for i, v := range h.broken {
		path := filepath.Join(dir, fmt.Sprintf("%s-%d.html", v.sku, i+1))
		err = errors.Join(err, porcupine.VisualizePath(v.porcupine(func() bool { return false }), v.info, path))
		paths = append(paths, path)
	}
	return paths, err
}

// verdict is what porcupine says of a SKU.
type verdict struct {
	*model
	result porcupine.CheckResult
	info   porcupine.LinearizationInfo
}

// decide returns a verdict for each model that is not known to be linearizable by then.
func decide(ctx context.Context, models []*model, by time.Time) (broken []*verdict) {
	for _, m := range models {
		spec, ops := m.porcupine(func() bool { return ctx.Err() != nil }), m.operations()
		left := func() time.Duration { return max(1, time.Until(by)) } // 0 would be for ever
		v := &verdict{model: m, result: porcupine.CheckOperationsTimeout(spec, ops, left())}
		if v.result == porcupine.Illegal {
			// Once more, to see how far it comes: this takes longer.
			_, v.info = porcupine.CheckOperationsVerbose(spec, ops, left())
		}
		if v.result != porcupine.Ok {
			broken = append(broken, v)
		}
	}
	return broken
}

const (
	// shownBefore are the operations that are described before the one that does not fit.
	shownBefore = 6
	// shownStuck are the operations that are described as not fitting.
	shownStuck = 4
)

// String describes a history that did not pass: as many of its operations as fit one after
// the other, and why none of those that had to come next fits.
func (v *verdict) String() string {
	if v.result == porcupine.Unknown {
		return fmt.Sprintf("%s: not decided within %s: %d operations", v.sku, decideWithin, len(v.ops))
	}
	fits := v.longest()
	s := v.initial()
	for _, o := range fits {
		s, _ = v.step(s, o)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s: not linearizable: %d of %d operations fit in an order; then %s, and none of the next fits:",
		v.sku, len(fits), len(v.ops), v.describe(s))
	for _, o := range v.next(fits) {
		_, why := v.apply(s, o, true)
		fmt.Fprintf(&text, "\n  %s\n    but %s", o, why)
	}
	if len(fits) > 0 {
		text.WriteString("\n  the last operations before:")
	}
	for _, o := range fits[max(0, len(fits)-shownBefore):] {
		fmt.Fprintf(&text, "\n  %s", o)
	}
	return text.String()
}

// longest returns the longest sequence of operations that fit.
func (v *verdict) longest() (ops []*op) {
	var best []porcupine.Operation
	for _, partial := range v.info.PartialLinearizationsOperations()[0] {
		if len(partial) > len(best) {
			best = partial
		}
	}
	for _, o := range best {
		ops = append(ops, o.Input.(*op))
	}
	return ops
}

// next returns the operations that could come after those by their times: they began
// before any other ended.
func (v *verdict) next(fits []*op) (ops []*op) {
	var rest []*op
	for _, o := range v.ops {
		if !slices.Contains(fits, o) {
			rest = append(rest, o)
		}
	}
	first := slices.MinFunc(rest, func(x, y *op) int { return int(x.ended - y.ended) })
	for _, o := range rest {
		if o.began <= first.ended && len(ops) < shownStuck {
			ops = append(ops, o)
		}
	}
	return ops
}
