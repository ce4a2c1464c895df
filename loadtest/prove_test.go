package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

// TestServiceSellsOutUnderEveryStrategy proves each strategy of the registry with two
// replicas, on the strategy's own lock server.
func TestServiceSellsOutUnderEveryStrategy(t *testing.T) {
	tier.OnlyTestAll(t, "every lock's server")
	const replicas = 2
	var wrong, right []strategy.Strategy
	for _, s := range strategy.All() {
		if s.Expect(replicas) == strategy.Oversold {
			wrong = append(wrong, s)
		} else {
			right = append(right, s)
		}
	}
	api := sandboxtest.Build(t, "api")
	for _, tt := range []struct {
		name, load string
		rows       []strategy.Strategy
	}{
		// An oversell is a matter of chance: more units give more chances.
		{"wrong", "--stock=200 --rate=1000 --duration=1s", wrong},
		// As many units as each strategy sells in a second, so that a slow lock sells out
		// before the attack ends.
		{"right", "--rate=150 --duration=2s", right},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var names []string
			for _, s := range tt.rows {
				names = append(names, s.Name)
			}
			args := append([]string{"prove", "--replicas=2"}, strings.Fields(tt.load)...)
			args = append(args, "--strategies="+strings.Join(names, ","), "--api="+api, "--out="+dir)
			var out bytes.Buffer
			if err := run(t.Context(), args, &out, io.Discard); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			p := readProof(t, dir)
			if !p.Proven || len(p.Runs) != len(tt.rows) {
				t.Errorf("got proven %v, %d runs of %d", p.Proven, len(p.Runs), len(tt.rows))
			}
			for i, r := range p.Runs {
				if r.Strategy != names[i] || r.Verdict != tt.rows[i].Expect(replicas) {
					t.Errorf("%s: %+v", r.Strategy, r.Findings)
				}
				if !strings.Contains(out.String(), "│ "+names[i]+" ") {
					t.Errorf("%s is not in the table", names[i])
				}
			}
		})
	}
}
