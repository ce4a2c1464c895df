package faults

import (
	"context"
	"fmt"
	"strings"

	"flashsale/internal/mutant"
)

// MutantResult is what came of a fault that was seeded in the code of the service.
type MutantResult struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Scenario is the one that caught it, or a test, and Violation the first one that it
	// found; both are "" if the mutant survived.
	Scenario  string `json:"scenario"`
	Violation string `json:"violation"`
	// Error is the last one that kept a run from its end.
	Error string `json:"error,omitempty"`
	// Runs is how many runs it took.
	Runs int `json:"runs"`
}

// Caught reports whether a scenario found the mutant.
func (m *MutantResult) Caught() bool { return m.Violation != "" }

func (m *MutantResult) cells() []string {
	if !m.Caught() {
		return []string{m.Name, "SURVIVED", fmt.Sprintf("%d runs", m.Runs)}
	}
	return []string{m.Name, m.Scenario, m.Violation}
}

// mutantRuns bounds the runs of each scenario on a mutant.
const mutantRuns = 3

// RunMutant builds a mutant of the source in the folder root, and runs the scenarios that
// should catch it, one after the other, until one does. A mutant without scenarios has a
// test. dir is for what is built.
func RunMutant(ctx context.Context, cfg Config, m *mutant.Mutant, root, dir string, done func(*Result)) (MutantResult, error) {
	result := MutantResult{Name: m.Name, About: m.About}
	if len(m.Scenarios) == 0 {
		failed, output, err := mutant.RunTest(ctx, root, dir, m)
		if failed {
			result.Scenario, result.Violation = "a test", m.Test+" fails"
		} else {
			result.Error = m.Test + " does not fail: " + output
		}
		result.Runs = 1
		return result, err
	}
	list, err := Find(m.Scenarios)
	if err != nil {
		return result, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	if cfg.API, err = mutant.Build(ctx, root, dir, m, "./cmd/api"); err != nil {
		return result, err
	}
	for range mutantRuns {
		for i := range list {
			cfg.Scenario = &list[i]
			cfg.Seed++
			run, err := Run(ctx, cfg)
			if ctx.Err() != nil {
				return result, err
			}
			result.Runs++
			done(&run)
			// Neither an error of a run nor slowness shows that the mutant was noticed.
			if len(run.Wrong) > 0 {
				result.Scenario = list[i].Name
				result.Violation, _, _ = strings.Cut(run.Wrong[0], "\n")
				return result, nil
			}
			if err != nil {
				result.Error = err.Error()
			}
		}
	}
	return result, nil
}

// String describes it in a line.
func (m *MutantResult) String() string {
	if !m.Caught() {
		return strings.TrimSpace(fmt.Sprintf("SURVIVED %d runs %s", m.Runs, m.Error))
	}
	return fmt.Sprintf("caught by %s: %s", m.Scenario, m.Violation)
}
