package attack

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Stage is a part of an attack in which the rate changes steadily from that of the stage
// before, or 0, to Rate. A stage without a duration is a jump.
type Stage struct {
	Duration time.Duration
	// Rate is in requests per second, at the end of the stage.
	Rate int
}

// ParseStages parses stages of the form DURATION:RATE, such as 30s:2000.
func ParseStages(texts []string) ([]Stage, error) {
	var stages []Stage
	for _, text := range texts {
		duration, rate, _ := strings.Cut(strings.TrimSpace(text), ":")
		d, errD := time.ParseDuration(duration)
		r, errR := strconv.Atoi(rate)
		if errD != nil || errR != nil || d < 0 || r < 0 || r > maxRate {
			return nil, fmt.Errorf("--stages: %q must be DURATION:RATE, such as 30s:2000, with a rate from 0 to %d", text, maxRate)
		}
		stages = append(stages, Stage{d, r})
	}
	return stages, nil
}

func (s Stage) String() string { return s.Duration.String() + ":" + strconv.Itoa(s.Rate) }

// MarshalText makes it DURATION:RATE in JSON.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Stage) UnmarshalText(text []byte) error {
	stages, err := ParseStages([]string{string(text)})
	if err == nil {
		*s = stages[0]
	}
	return err
}

// within returns the number of requests of a stage that begins at that rate.
func (s Stage) within(from float64) float64 {
	return (from + float64(s.Rate)) / 2 * s.Duration.Seconds()
}

// total returns the duration of the stages, and their number of requests.
func total(stages []Stage) (d time.Duration, requests float64) {
	rate := 0.0
	for _, s := range stages {
		d += s.Duration
		requests += s.within(rate)
		rate = float64(s.Rate)
	}
	return d, requests
}

// Schedule is a vegeta.Pacer that records the start of the attack, which vegeta does not
// report. It ends the attack on stop, or after limit requests: rounding could add one.
type Schedule struct {
	// Began is set before the first request. Read it after that request.
	Began time.Time

	// stages, after which the rate stays as it is.
	stages []Stage
	limit  uint64
	stop   <-chan struct{}
	// stopped says that stop was closed; read after the last request.
	stopped bool
}

// NewSchedule sends rate requests per second, or as many as possible with rate 0. A nil
// stop is never closed.
func NewSchedule(rate, limit int, stop <-chan struct{}) *Schedule {
	return &Schedule{stages: []Stage{{Rate: rate}}, limit: uint64(limit), stop: stop}
}

// Pace implements vegeta.Pacer.
func (s *Schedule) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	if s.Began.IsZero() {
		s.Began = time.Now().Add(-elapsed)
	}
	select {
	case <-s.stop:
		s.stopped = true
		return 0, true
	default:
	}
	if hits >= s.limit {
		return 0, true
	}
	return max(0, s.Due(int(hits))-elapsed), false
}

// Rate implements vegeta.Pacer. An attack does not ask for it.
func (s *Schedule) Rate(time.Duration) float64 { return 0 }

// Due returns when request seq is to be sent: at a constant rate, the first is due one
// interval after the start.
func (s *Schedule) Due(seq int) time.Duration {
	n, at, rate := float64(seq+1), time.Duration(0), 0.0
	for _, stage := range s.stages {
		within := stage.within(rate)
		if n <= within {
			// n = rate*t + slope/2*t*t, solved for t in the form that also holds for slope 0.
			slope := (float64(stage.Rate) - rate) / stage.Duration.Seconds()
			return at + seconds(2*n/(rate+math.Sqrt(max(0, rate*rate+2*slope*n))))
		}
		n -= within
		at += stage.Duration
		rate = float64(stage.Rate)
	}
	if rate == 0 {
		return at
	}
	return at + seconds(n/rate)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
