package model

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

const (
	// patience bounds the check of one model, also on a busy machine.
	patience = 8 * time.Minute
	// depth bounds the length of a run. A check that meets a longer one fails.
	depth = "-m100000"
)

// search is a model with the macros that bound or change it, and how Spin goes
// through its runs.
type search struct {
	file   string
	macros []string
	// endless looks for a run that goes on forever without a sale or an end, instead
	// of broken assertions.
	endless bool
	// shortest finds the shortest run that breaks a property, in more memory.
	shortest bool
}

// result is what the search found.
type result struct {
	states, depth int
	cpu           time.Duration
	// broken is the assertion that failed, as Spin prints it; "" if none did.
	broken string
	// unreached are statements that no run came to.
	unreached []string
	// incomplete is why the search did not visit every state; "" if it did.
	incomplete string
	// folder has the model, and the run that broke it.
	folder string
}

var (
	states    = regexp.MustCompile(`(?m)^ *(\S+) states, stored`)
	depths    = regexp.MustCompile(`depth reached (\d+), errors: (\d+)`)
	broken    = regexp.MustCompile(`(?m)^pan:\d+: (.+?) \(at depth`)
	unreached = regexp.MustCompile(`(?m)^\t\S+\.pml:\d+, state \d+, .+$`)
	// cut matches what Spin prints where it leaves states out.
	cut = regexp.MustCompile(`max search depth too small|out of memory|hash table full|Search not completed|truncated`)
)

// run compiles and runs a search.
func (s search) run(t *testing.T, panFlags ...string) result {
	t.Helper()
	r := result{folder: t.TempDir()}
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.folder, s.file), text, 0o600); err != nil {
		t.Fatal(err)
	}
	compile := []string{"-O1", "-w", "-DCOLLAPSE", "-o", "pan", "pan.c"}
	flags := []string{"-E", depth}
	macros := slices.Clone(s.macros)
	if s.endless {
		macros = append(macros, "-DNP")
		compile = append(compile, "-DNP")
		flags = append(flags, "-l")
	} else {
		compile = append(compile, "-DSAFETY")
	}
	if s.shortest {
		compile = append(compile, "-DBFS")
	}
	command(t, r.folder, "spin", append(append([]string{"-a"}, macros...), s.file)...)
	command(t, r.folder, "gcc", compile...)
	var out string
	out, r.cpu = command(t, r.folder, "./pan", append(flags, panFlags...)...)

	r.incomplete = cut.FindString(out)
	r.unreached = unreached.FindAllString(out, -1)
	found, stored := depths.FindStringSubmatch(out), states.FindStringSubmatch(out)
	if found == nil || stored == nil {
		t.Fatalf("%v: pan prints no result:\n%s", s, out)
	}
	r.depth, _ = strconv.Atoi(found[1])
	count, err := strconv.ParseFloat(stored[1], 64) // such as 1.2e+07
	if err != nil {
		t.Fatal(err)
	}
	r.states = int(count)
	if match := broken.FindStringSubmatch(out); match != nil {
		r.broken, r.incomplete = match[1], "" // it stops at the first error
	} else if found[2] != "0" {
		t.Fatalf("%v: pan reports an error of an unknown kind:\n%s", s, out)
	}
	return r
}

// command returns the output of a program and the processor's time that it took. The
// program is ended after patience.
func command(t *testing.T, folder, program string, args ...string) (string, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.WaitDelay = folder, time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v (scripts/setup --spin installs spin and gcc)\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// holds checks that the model holds in every run.
func (s search) holds(t *testing.T) result {
	t.Helper()
	r := s.run(t)
	t.Logf("%s %s: %d states, longest run %d steps, %.1f s of CPU", s.file, strings.Join(s.macros, " "), r.states, r.depth, r.cpu.Seconds())
	if r.broken != "" {
		t.Errorf("a run breaks %s; it ends with\n%s", r.broken, strings.Join(s.story(t, r), "\n"))
	}
	if r.incomplete != "" {
		t.Errorf("the search left states out: %s", r.incomplete)
	}
	return r
}

// breaks checks that a run breaks the assertion that contains want.
func (s search) breaks(t *testing.T, want string) result {
	t.Helper()
	r := s.run(t)
	t.Logf("%s %s: breaks %s after %d states", s.file, strings.Join(s.macros, " "), r.broken, r.states)
	if !strings.Contains(r.broken, want) {
		t.Errorf("%s %s breaks %q, want %q", s.file, strings.Join(s.macros, " "), r.broken, want)
	}
	return r
}

// story returns the steps of the run that broke the model, as the model prints them.
func (s search) story(t *testing.T, r result) []string {
	t.Helper()
	out, _ := command(t, r.folder, "spin", append(append([]string{"-t", "-T"}, s.macros...), s.file)...)
	var steps []string
	for line := range strings.Lines(out) {
		if step, ok := strings.CutPrefix(strings.TrimSpace(line), "step "); ok {
			steps = append(steps, step)
		}
		if strings.HasPrefix(line, "spin: text of failed assertion") {
			break // Spin runs to the end of the step that broke it
		}
	}
	return steps
}

// A search that is cut short finds no error either, and must not count as a proof.
func TestIncompleteSearchIsNoticed(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	t.Parallel()
	if r := (search{file: "takeover.pml"}).run(t, "-m50"); r.incomplete == "" {
		t.Error("a search to depth 50 counts as complete")
	}
}
