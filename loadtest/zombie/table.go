package zombie

import (
	"fmt"
	"io"
	"slices"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/report"
)

// Figures are the results of all runs, as in docs.
type Figures struct {
	Command string    `json:"command"`
	Date    string    `json:"date"`
	Machine string    `json:"machine"`
	Rows    []Summary `json:"rows"`
}

// Summary sums up all runs of a strategy under a fence.
type Summary struct {
	Strategy string         `json:"strategy"`
	Fence    strategy.Fence `json:"fence"`
	Runs     int            `json:"runs"`
	// TwoHolders and TakeOver are medians.
	TwoHolders time.Duration `json:"two_holders_ns"`
	TakeOver   time.Duration `json:"take_over_ns"`
	// After and Amid are sums.
	After Harm `json:"after"`
	Amid  Harm `json:"amid"`
	// OversoldRuns counts the runs that oversold.
	OversoldRuns int `json:"oversold_runs"`
	// Expected is the result that the fence must have; OK says whether it had.
	Expected string `json:"expected"`
	OK       bool   `json:"ok"`
}

// Summarize sums up the runs of a strategy under a fence.
func Summarize(s strategy.Strategy, fence strategy.Fence, results []Result) Summary {
	sum := Summary{Strategy: s.Name, Fence: s.FenceFor(fence), Runs: len(results)}
	var held, taken []time.Duration
	for i := range results {
		r := &results[i]
		held, taken = append(held, r.TwoHolders), append(taken, r.TakeOver)
		sum.After.add(r.After)
		sum.Amid.add(r.Amid)
		if r.Oversold() > 0 {
			sum.OversoldRuns++
		}
	}
	sum.TwoHolders, sum.TakeOver = median(held), median(taken)
	// No lock notices its own pause: without a fence it must oversell. If it does not, the
	// experiment failed.
	switch sum.Fence {
	case strategy.FenceClaim:
		sum.Expected, sum.OK = "nothing", sum.After == Harm{} && sum.Amid == Harm{}
	case strategy.FenceWrite:
		sum.Expected, sum.OK = "oversells amid", sum.After == Harm{} && sum.Amid.Oversold > 0
	default:
		sum.Expected, sum.OK = "oversells", sum.OversoldRuns > 0
	}
	return sum
}

// Lost returns the lost updates of both kinds of stale writes.
func (s *Summary) Lost() int64 { return s.After.Lost + s.Amid.Lost }

// Oversold returns the units oversold by both.
func (s *Summary) Oversold() int64 { return s.After.Oversold + s.Amid.Oversold }

func (h *Harm) add(more Harm) {
	h.Lost += more.Lost
	h.Oversold += more.Oversold
}

func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

const legend = `after: A wrote after B's write. amid: A wrote between B's read and B's write.
lost: units of updates that were overwritten. oversold: units sold beyond those on sale.`

// Table writes the summaries for a terminal.
func Table(w io.Writer, sums []Summary) error {
	columns := []string{"strategy", "fence", "runs", "taken over after", "two holders for",
		"lost after", "oversold after", "lost amid", "oversold amid", "must", "ok"}
	var rows [][]string
	for _, s := range sums {
		ok := "yes"
		if !s.OK {
			ok = "NO"
		}
		row := []string{s.Strategy, string(s.Fence)}
		for _, figure := range []any{s.Runs, s.TakeOver.Round(10 * time.Millisecond), s.TwoHolders.Round(10 * time.Millisecond),
			s.After.Lost, s.After.Oversold, s.Amid.Lost, s.Amid.Oversold, s.Expected, ok} {
			row = append(row, fmt.Sprint(figure))
		}
		rows = append(rows, row)
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", report.Grid("", columns, rows, 2, 2), legend)
	return err
}
