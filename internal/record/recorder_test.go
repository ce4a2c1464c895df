package record

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gate is a file that writes nothing until it is opened.
type gate struct {
	bytes.Buffer
	open chan struct{}
}

func (g *gate) Write(b []byte) (int, error) { <-g.open; return g.Buffer.Write(b) }
func (g *gate) Close() error                { return nil }

func parse(t *testing.T, text string) (all []Step) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		var s Step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		all = append(all, s)
	}
	return all
}

// While the file takes nothing, orders go on, and what they did is counted in place of
// being written: all steps are there, or counted.
func TestSlowFileCostsStepsAndNoTime(t *testing.T) {
	t.Parallel()
	file := &gate{open: make(chan struct{})}
	var log bytes.Buffer
	r := newRecorder(file, Step{Replica: "a"}, slog.New(slog.NewTextHandler(&log, nil)))
	go r.run()
	const orders, each = 8, waiting
	var group sync.WaitGroup
	for range orders {
		group.Go(func() {
			for range each {
				r.Add(Step{Kind: Arrived, SKU: "lamp"})
			}
		})
	}
	group.Wait() // it would never end if Add waited for the file
	close(file.open)
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := parse(t, file.String())
	written, dropped := 0, int64(0)
	for _, s := range all {
		switch s.Kind {
		case Arrived:
			written++
		case Dropped:
			dropped += s.Lost
		}
	}
	last := all[len(all)-1]
	if all[0].Kind != Started || last.Kind != Stopped || last.Lost != dropped || dropped == 0 || written+int(dropped) != orders*each {
		t.Errorf("first %v, last %+v, %d written and %d dropped of %d", all[0].Kind, last, written, dropped, orders*each)
	}
	if !strings.Contains(log.String(), "lost=") {
		t.Errorf("the log does not have the number of lost steps: %s", log.String())
	}
}

func TestFullDiskIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r, err := Open("/dev/full", Step{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100_000 {
		r.Add(Step{Kind: Arrived})
	}
	if err := r.Close(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if strings.Count(log.String(), "level=ERROR") != 1 {
		t.Errorf("the log has\n%s\nwant one error", log.String())
	}
}

func TestFileHasAMaximumSize(t *testing.T) {
	t.Parallel()
	file := &gate{open: make(chan struct{})}
	close(file.open)
	r := newRecorder(file, Step{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.left = 4096
	go r.run()
	for range 1000 {
		r.Add(Step{Kind: Arrived})
	}
	if err := r.Close(t.Context()); !errors.Is(err, errFull) || file.Len() > 4096 || file.Len() < 3000 {
		t.Errorf("got %v and %d bytes, want %v and about 4096", err, file.Len(), errFull)
	}
	parse(t, file.String()) // no line is cut off
}

func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	file := &gate{open: make(chan struct{})}
	defer close(file.open)
	r := newRecorder(file, Step{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	go r.run()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
}

// The lines of a step have the names of docs/steps.md, and those that do not apply are
// absent, while 0 units are not.
func TestStepHasItsFieldsOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "steps")
	r, err := Open(path, Step{Replica: "a", Strategy: "none", PID: 1}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r.Add(Step{Kind: Wrote, SKU: "lamp", Before: new(int64(1)), After: new(int64(0))})
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(bytes.Split(text, []byte("\n"))[1], &got); err != nil {
		t.Fatal(err)
	}
	if got["available_before"] != 1.0 || got["available_after"] != 0.0 || got["replica"] != "a" || len(got) != 7 {
		t.Errorf("got %v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the names of customers: %v, %v", info.Mode(), err)
	}
}

// docs/steps.md is the only description of the file.
func TestEachStepAndFieldIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/steps.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("step.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`Kind = "([a-z-]+)"|json:"([a-z_]+)`).FindAllStringSubmatch(string(source), -1)
	if len(names) < 40 {
		t.Fatalf("step.go has %d steps and fields, want more than 40", len(names))
	}
	for _, name := range names {
		if want := "`" + name[1] + name[2] + "`"; !bytes.Contains(page, []byte(want)) {
			t.Errorf("docs/steps.md lacks %s", want)
		}
	}
}
