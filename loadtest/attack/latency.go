package attack

import (
	"math"
	"slices"
	"time"
)

// Latencies are the sorted latencies of some answers. All are stored: an estimate is
// least precise at the tail, where precision matters most.
type Latencies []time.Duration

// LatenciesOf returns the latencies of all answers, with any outcome.
func LatenciesOf(answers []Answer) Latencies {
	l := make(Latencies, len(answers))
	for i := range answers {
		l[i] = answers[i].Latency()
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
