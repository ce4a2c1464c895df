package attack

import (
	"math"
	"slices"
	"time"
)

// Latencies are the latencies of some answers, sorted. All are kept: an
// estimate of the tail is worth least where it matters most.
type Latencies []time.Duration

// LatenciesOf takes those of all answers, whatever they say.
func LatenciesOf(answers []Answer) Latencies {
	l := make(Latencies, len(answers))
	for i := range answers {
		l[i] = answers[i].Latency()
	}
	slices.Sort(l)
	return l
}

// Quantile is the least latency that the share q of all answers does not
// exceed: 0.99 for p99, 1 for the maximum. It is 0 when there are none.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(l))))
	return l[min(max(rank, 1), len(l))-1]
}
