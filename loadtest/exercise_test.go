package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/exercise"
)

func TestExercisesAreListed(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"exercise"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range exercise.Names() {
		if !strings.Contains(out.String(), name) {
			t.Errorf("the list lacks %s:\n%s", name, out.String())
		}
	}
}

// What students begin with fails with status 1, and the page shows what is printed.
func TestFailedExerciseIsExplained(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	var out bytes.Buffer
	err := run(t.Context(), []string{"exercise", "check", "find-the-race", "--dir", "loadtest/exercise/tasks"}, &out, io.Discard)
	if !errors.Is(err, errNotProven) {
		t.Errorf("got %v", err)
	}
	page, err := os.ReadFile("../docs/exercises.md")
	if err != nil {
		t.Fatal(err)
	}
	database, printed, _ := strings.Cut(out.String(), "\n\n")
	want := "$ bin/loadtest exercise check find-the-race\n" + printed + "```\n"
	if !strings.HasPrefix(database, "Database: ") || !strings.Contains(string(page), want) {
		t.Errorf("docs/exercises.md does not show the output:\n%s", out.String())
	}
}

// What cannot be checked has status 2: errNotChecked.
func TestWhatCannotBeCheckedIsNoFailure(t *testing.T) {
	for _, args := range [][]string{
		{"exercise", "check", "nope"},
		{"exercise", "check", "find-the-race", "--dir", "docs"},
		{"exercise", "check", "--dir", "docs"},
		{"exercise", "check", "--dir", "/tmp"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); !errors.Is(err, errNotChecked) {
			t.Errorf("%q: got %v", args, err)
		}
	}
}
