package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/client"
	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// StreamsConfig configures MeasureStreams.
type StreamsConfig struct {
	// Fleet is one replica with an empty database.
	Fleet *sandbox.Fleet
	// Streams are open in half of the runs, of which each round has two.
	Streams, Rounds int
	// Updates is how many updates are timed in each round while no orders arrive.
	Updates int
	// Duration is the measured window of a run, in which Workers buyers order.
	Duration time.Duration
	Workers  int
	Seed     uint64
	// Profiles is a folder for CPU profiles of the replica, or empty. The replica serves
	// them at Pprof.
	Profiles, Pprof string
	Say             func(format string, args ...any)
}

// StreamsResult says what open event streams cost a replica, and how long an update
// takes to reach all of them.
type StreamsResult struct {
	Without, With StreamsRun // medians
	// Ratio is the median over rounds of the rate with streams by the rate without.
	Ratio float64
	// Idle and Busy are the times from an update's answer until the last stream has
	// received it: while no orders arrive, and during the closed loop.
	Idle, Busy attack.Latencies
}

// StreamsRun is one run of the closed loop.
type StreamsRun struct {
	Rate float64 // orders a second
	P99  float64 // ms
	RSS  float64 // of the replica at its peak, in MiB
	// Replica and Harness are the share of a core that each used. The harness is the
	// buyers and the clients of the streams.
	Replica, Harness float64
}

const (
	streamsHot  = "hot"  // the SKU that is ordered
	streamsMark = "mark" // the SKU whose updates are timed
	// updatePause is the longest pause between two updates. Its random part lets updates
	// meet any moment of the replica's own interval.
	updatePause = time.Second
	// closedTimeout is longer than a replica takes to detect closed streams.
	closedTimeout = 30 * time.Second
)

// MeasureStreams runs a closed loop without and with open event streams in turn.
func MeasureStreams(ctx context.Context, cfg StreamsConfig) (*StreamsResult, error) {
	s := &streamsBench{StreamsConfig: cfg, replica: cfg.Fleet.Replicas[0], result: &StreamsResult{}}
	var err error
	s.admin, err = client.New(client.Config{URLs: []string{s.replica.URL}, Token: client.StaticToken(cfg.Fleet.AdminToken), MaxTries: 1})
	if err != nil {
		return nil, err
	}
	service := &attack.Service{URL: s.replica.URL, AdminToken: cfg.Fleet.AdminToken}
	if err := errors.Join(service.PutOnSale(ctx, streamsHot, math.MaxInt32), service.PutOnSale(ctx, streamsMark, 1)); err != nil {
		return nil, err
	}
	var without, with []StreamsRun
	var ratios []float64
	for round := range cfg.Rounds {
		var off, on StreamsRun
		runs := []func() error{
			func() (err error) { off, err = s.run(ctx, nil); return err },
			func() (err error) { on, err = s.watched(ctx); return err },
		}
		if round%2 == 1 {
			slices.Reverse(runs)
		}
		for _, run := range runs {
			if err := run(); err != nil {
				return nil, err
			}
		}
		without, with, ratios = append(without, off), append(with, on), append(ratios, on.Rate/off.Rate)
		cfg.Say("round %d: %.0f orders/s without streams, %.0f with %d", round+1, off.Rate, on.Rate, cfg.Streams)
	}
	s.result.Without, s.result.With, s.result.Ratio = medianRun(without), medianRun(with), median(ratios)
	slices.Sort(s.result.Idle)
	slices.Sort(s.result.Busy)
	return s.result, cfg.Fleet.Dead()
}

type streamsBench struct {
	StreamsConfig
	replica *sandbox.Replica
	admin   *client.Client
	result  *StreamsResult
	runs    int
	units   int64 // of streamsMark, beyond its first
}

// watched opens the streams, times updates, and runs the closed loop.
func (s *streamsBench) watched(ctx context.Context) (run StreamsRun, err error) {
	all, err := openWatchers(ctx, s.replica.URL, s.Streams)
	if err != nil {
		return run, err
	}
	defer func() { all.close(); err = errors.Join(err, s.awaitClosed(ctx)) }()
	if _, err := s.update(ctx, all); err != nil { // all streams have started
		return run, err
	}
	for range s.Updates {
		took, err := s.update(ctx, all)
		if err != nil {
			return run, err
		}
		s.result.Idle = append(s.result.Idle, took)
		if err := sleep.For(ctx, rand.N(updatePause)); err != nil {
			return run, err
		}
	}
	return s.run(ctx, all)
}

// update adds a unit, and returns the time from the answer until all streams have
// received it.
func (s *streamsBench) update(ctx context.Context, all *watchers) (time.Duration, error) {
	s.units++
	arrived := all.expect(streamsMark, 1+s.units)
	if _, err := s.admin.Restock(ctx, streamsMark, 1, fmt.Sprintf("update-%d", s.units)); err != nil {
		return 0, err
	}
	answered := time.Now()
	last, err := arrived(ctx)
	return max(last.Sub(answered), 0), err
}

// run runs the closed loop once, with new buyers. It times updates meanwhile if there
// are streams.
func (s *streamsBench) run(ctx context.Context, all *watchers) (run StreamsRun, err error) {
	s.runs++
	warmUp := max(s.Duration/warmShare, warmLeast)
	limit := int(ceiling * (warmUp + s.Duration).Seconds())
	plan := attack.Plan{Targets: []string{s.replica.URL}, SKUs: []string{streamsHot}, MaxQuantity: 1, Seed: s.Seed + uint64(s.runs)}
	tokens, err := attack.Mint(ctx, plan.Seed, limit, s.Fleet.JWTSecret)
	if err != nil {
		return run, err
	}
	gauge := &gauge{groups: []group{{"replica", []int{s.replica.Pid()}}, {"harness", []int{os.Getpid()}}}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	meanwhile, during := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	if all != nil {
		meanwhile.Go(func() error {
			for {
				select {
				case <-ended:
					return nil
				case <-during.Done():
					return context.Cause(during)
				case <-time.After(rand.N(updatePause)):
				}
				took, err := s.update(during, all)
				if err != nil {
					return err
				}
				s.result.Busy = append(s.result.Busy, took)
			}
		})
	}
	if s.Profiles != "" {
		meanwhile.Go(func() error {
			if err := sleep.For(during, warmUp); err != nil {
				return err
			}
			return saveProfile(during, s.Pprof, s.Duration, filepath.Join(s.Profiles, fmt.Sprintf("run-%d streams-%t.pprof", s.runs, all != nil)))
		})
	}
	got, err := send(ctx, offer{plan: plan, tokens: tokens, workers: s.Workers, warmUp: warmUp, window: s.Duration, limit: limit, measure: gauge.read})
	close(ended)
	if err := errors.Join(err, meanwhile.Wait()); err != nil {
		return run, err
	}
	used, err := gauge.usages()
	if err != nil {
		return run, err
	}
	answers, latencies := got.inWindow()
	window := got.to - got.from
	if counts := proof.Count(answers); counts.Accepted < len(answers) {
		return run, fmt.Errorf("%d of %d orders were not accepted", len(answers)-counts.Accepted, len(answers))
	}
	share := func(name string) float64 { return used[name].cpu.Seconds() / window.Seconds() }
	return StreamsRun{Rate: float64(len(answers)) / window.Seconds(), P99: latencies.Quantile(0.99).Seconds() * 1e3,
		RSS: float64(used["replica"].peakRSS) / (1 << 20), Replica: share("replica"), Harness: share("harness")}, nil
}

// awaitClosed waits until the replica has noticed that all streams are closed.
func (s *streamsBench) awaitClosed(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, closedTimeout, errors.New("the replica still counts closed streams"))
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.replica.URL+"/metrics", http.NoBody)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "\nflashsale_http_event_streams 0\n") {
			return nil
		}
		if sleep.For(ctx, 100*time.Millisecond) != nil {
			return context.Cause(ctx)
		}
	}
}

func medianRun(runs []StreamsRun) StreamsRun {
	of := func(field func(*StreamsRun) float64) float64 {
		values := make([]float64, len(runs))
		for i := range runs {
			values[i] = field(&runs[i])
		}
		return median(values)
	}
	return StreamsRun{
		Rate: of(func(r *StreamsRun) float64 { return r.Rate }), P99: of(func(r *StreamsRun) float64 { return r.P99 }),
		RSS:     of(func(r *StreamsRun) float64 { return r.RSS }),
		Replica: of(func(r *StreamsRun) float64 { return r.Replica }), Harness: of(func(r *StreamsRun) float64 { return r.Harness }),
	}
}

// StreamsTable prints a result in Markdown.
func StreamsTable(out io.Writer, streams int, r *StreamsResult) error {
	a, b := &r.Without, &r.With
	ms := func(l attack.Latencies, q float64) float64 { return float64(l.Quantile(q).Microseconds()) / 1e3 }
	_, err := fmt.Fprintf(out, `| medians | 0 streams | %d streams |
| --- | --- | --- |
| orders/s | %.0f | %.0f |
| by the rate without streams, in the same round | | %.2f |
| p99 of an order, ms | %.0f | %.0f |
| peak RSS of the replica, MiB | %.0f | %.0f |
| cores used by the replica | %.2f | %.2f |
| cores used by the load and the streams' clients | %.2f | %.2f |

| an update reaches all streams, ms | median | maximum | updates |
| --- | --- | --- | --- |
| while no orders arrive | %.0f | %.0f | %d |
| under the load | %.0f | %.0f | %d |
`, streams, a.Rate, b.Rate, r.Ratio, a.P99, b.P99, a.RSS, b.RSS, a.Replica, b.Replica, a.Harness, b.Harness,
		ms(r.Idle, 0.5), ms(r.Idle, 1), len(r.Idle), ms(r.Busy, 0.5), ms(r.Busy, 1), len(r.Busy))
	return err
}
