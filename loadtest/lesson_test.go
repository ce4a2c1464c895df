package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
)

func TestLessonsAreListed(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"lessons"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range lesson.Names() {
		if !strings.Contains(out.String(), name) {
			t.Errorf("the list lacks %s:\n%s", name, out.String())
		}
	}
}

func TestLessonIsPlayed(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"lesson", "no-lock"}, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "oversold by 1 unit") {
		t.Errorf("the lesson did not oversell:\n%s", out.String())
	}
}

func TestUnknownLessonIsNamed(t *testing.T) {
	err := run(t.Context(), []string{"lesson", "nope"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `unknown lesson "nope"`) {
		t.Errorf("got %v", err)
	}
}

// TestInterruptedLessonLeavesNothing interrupts a lesson while one replica is stopped and
// the other waits for it.
func TestInterruptedLessonLeavesNothing(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waits := &whenWritten{text: "requests the lock", f: cancel}
	err := run(ctx, []string{"lesson", "paused-holder"}, waits, io.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range children {
		if pids, err := os.ReadFile(path); err == nil && len(pids) > 0 {
			t.Errorf("processes are still there: %s", pids)
		}
	}
}

// The others are played after a lesson that cannot run, and the error says why it could not.
func TestLessonsGoOnAfterOneThatCannotRun(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	variant := func(script func(*testbed.Run)) *lesson.Lesson {
		return &lesson.Lesson{Name: "test", Variants: []lesson.Variant{{Script: script}}}
	}
	err := playLessons(t.Context(), streams{&out, io.Discard}, "",
		variant(func(r *testbed.Run) { r.Fail("no node") }), variant(func(r *testbed.Run) { r.Report(true, "played") }))
	if err == nil || !strings.Contains(err.Error(), "no node") || !strings.Contains(out.String(), "played") {
		t.Errorf("got %v, and printed:\n%s", err, out.String())
	}
}
