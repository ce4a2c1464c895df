package attack

import (
	"math"
	"slices"
	"time"
)

// Latencies are the sorted latencies of some answers. All are stored: an estimate is
// least precise at the tail, where precision matters most.
type Latencies []time.Duration

// LatenciesOf returns the latencies of the answers with one of those outcomes, or of all
// answers if none is named.
func LatenciesOf(answers []Answer, outcomes ...Outcome) Latencies {
	l := make(Latencies, 0, len(answers))
	for i := range answers {
		if len(outcomes) == 0 || slices.Contains(outcomes, answers[i].Outcome) {
			l = append(l, answers[i].Latency())
		}
	}
	slices.Sort(l)
	return l
}

// Quantile returns the least latency that a share q of the answers does not exceed: 0.99
// is p99, 1 the maximum. It returns 0 if there are no answers.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(l))))
	return l[min(max(rank, 1), len(l))-1]
}

// LongestGap returns the longest time without an accepted order, from a time of the attack to
// its last answer.
func LongestGap(answers []Answer, from time.Duration) time.Duration {
	var times []time.Duration
	end := from
	for i := range answers {
		a := &answers[i]
		end = max(end, a.Done)
		if a.Outcome == Accepted && a.Done > from {
			times = append(times, a.Done)
		}
	}
	slices.Sort(times)
	gap, last := time.Duration(0), from
	for _, at := range append(times, end) {
		gap, last = max(gap, at-last), at
	}
	return gap
}

// LongestWait returns the longest wait of a buyer whose answer came after a time of the attack.
func LongestWait(answers []Answer, from time.Duration) time.Duration {
	wait := time.Duration(0)
	for i := range answers {
		if a := &answers[i]; a.Done > from {
			wait = max(wait, a.Done-a.Sent)
		}
	}
	return wait
}
