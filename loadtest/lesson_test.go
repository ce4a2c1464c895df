package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"flashsale/loadtest/lesson"
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
	var out bytes.Buffer
	if err := run(t.Context(), []string{"lesson", "no-lock"}, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "oversold by 1 unit") {
		t.Errorf("nothing was oversold:\n%s", out.String())
	}
}

func TestUnknownLessonIsNamed(t *testing.T) {
	err := run(t.Context(), []string{"lesson", "nope"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `unknown lesson "nope": one of no-lock, `) {
		t.Errorf("got %v", err)
	}
}
