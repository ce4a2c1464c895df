package bench

import (
	"context"
	"fmt"
)

// Tuned is the result of one way to run a peer.
type Tuned struct {
	Peer   string  `json:"peer"`
	How    string  `json:"how"`
	Served float64 `json:"served_per_second"`
	Chosen bool    `json:"chosen"`
}

// tune finds the fastest way to run each peer on this machine, on the hot SKU. With a
// small pool the store is idle, and with a large one its transactions contend.
func (b *bench) tune(ctx context.Context) error {
	load, err := ParseLoad(hotLoad, b.cfg.Seed)
	if err != nil {
		return err
	}
	for _, p := range b.result.Peers {
		b.ways[p.Name] = p.Ways[0]
		if len(p.Ways) == 1 {
			continue
		}
		first, best := len(b.result.Tuning), 0
		for i, way := range p.Ways {
			run, err := b.try(ctx, trial{
				peer: p, way: way, load: load, Setting: Setting{Load: hotLoad, Replicas: StandardReplicas},
				workers: b.workers(p), warmUp: sweepWarm, window: sweepWindow,
			})
			if err != nil {
				return fmt.Errorf("tune %s (%s): %w", p.Name, way, err)
			}
			b.result.Tuning = append(b.result.Tuning, Tuned{Peer: p.Name, How: way.String(), Served: round(run.Served, 1)})
			if run.Served > b.result.Tuning[first+best].Served {
				best = i
			}
		}
		b.result.Tuning[first+best].Chosen = true
		b.ways[p.Name] = p.Ways[best]
		b.cfg.Say("tuned    %-19s %s: %.0f/s", p.Name, p.Ways[best], b.result.Tuning[first+best].Served)
	}
	return nil
}
