package lesson_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
)

var update = flag.Bool("update", false, "write the output of the lessons to their pages")

// TestMain lets this test binary run as a lesson's replica.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == testbed.ReplicaCommand {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := testbed.ReplicaMain(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestLessons runs every lesson: the broken code must break, the cure must hold,
// and the page must show the output.
func TestLessons(t *testing.T) {
	t.Cleanup(func() { leaks.None(t) })
	bed := testbed.New(testbed.Config{EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}})
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, l := range lesson.All() {
		t.Run(l.Name, func(t *testing.T) {
			if slices.Contains(l.Servers, lesson.Node) {
				sandboxtest.NeedsNode(t)
			}
			var out bytes.Buffer
			if err := l.Run(t.Context(), bed, &out); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			checkPrinted(t, l, out.String())
		})
	}
}

// checkPrinted compares a page's example with the output.
func checkPrinted(t *testing.T, l *lesson.Lesson, printed string) {
	t.Helper()
	path := pageOf(l.Name)
	page := read(t, path)
	begin, end := "```\n$ "+commandOf(l)+"\n", "```\n"
	before, rest, ok := strings.Cut(page, begin)
	shown, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no block that begins with %q", path, begin)
	}
	if *update && masked(shown) != masked(printed) {
		if err := os.WriteFile(path, []byte(before+begin+printed+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(masked(shown), masked(printed)); diff != "" {
		t.Errorf("%s does not show the output (-page +now); go test ./loadtest/lesson -update writes it:\n%s", path, diff)
	}
}

// masked replaces what differs from run to run: times and counts of requests.
func masked(text string) string {
	return requests.ReplaceAllString(times.ReplaceAllString(text, "  ?.? s"), "? requests")
}

var (
	times    = regexp.MustCompile(`(?m)^ +\d+\.\d s`)
	requests = regexp.MustCompile(`\d+ requests`)
)

const pages = "../../docs/lessons"

func pageOf(name string) string { return filepath.Join(pages, name+".md") }

func commandOf(l *lesson.Lesson) string { return "bin/loadtest lesson " + l.Name }

func TestEveryLessonHasAPage(t *testing.T) {
	index := read(t, filepath.Join(pages, "README.md"))
	for _, l := range lesson.All() {
		page := read(t, pageOf(l.Name))
		if !strings.Contains(page, "$ "+commandOf(l)+"\n") {
			t.Errorf("%s does not show the command of the lesson: %s", pageOf(l.Name), commandOf(l))
		}
		_, questions, ok := strings.Cut(page, "\n## Questions\n")
		if got := len(regexp.MustCompile(`(?m)^\d+\. .*\?`).FindAllString(questions, -1)); !ok || got < 3 || strings.Contains(questions, "\n#") {
			t.Errorf("%s does not end with at least three questions for a class", pageOf(l.Name))
		}
		if link := "[`" + l.Name + "`](" + l.Name + ".md)"; !strings.Contains(index, link) {
			t.Errorf("the index does not list %s", link)
		}
	}
	files, err := filepath.Glob(filepath.Join(pages, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".md")
		if name != "README" && !slices.Contains(lesson.Names(), name) {
			t.Errorf("%s has no lesson of that name", path)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRegistryIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range lesson.All() {
		if seen[l.Name] || l.Name == "" || l.Title == "" || l.Shows == "" || len(l.Servers) == 0 {
			t.Errorf("%q: the name is not unique, or a field is missing: %+v", l.Name, l)
		}
		seen[l.Name] = true
		if !regexp.MustCompile(`\p{Han}{3}`).MatchString(l.Chinese) {
			t.Errorf("%s has no Chinese title: %q", l.Name, l.Chinese)
		}
		if !l.Variants[0].Breaks {
			t.Errorf("%s does not begin with a broken variant", l.Name)
		}
		if !slices.ContainsFunc(l.Variants, func(a lesson.Variant) bool { return !a.Breaks }) {
			t.Errorf("%s has no cured variant", l.Name)
		}
		if found, err := lesson.Find(l.Name); err != nil || found != l {
			t.Errorf("Find(%q): %v, %v", l.Name, found, err)
		}
	}
	if _, err := lesson.Find("nope"); err == nil || !strings.Contains(err.Error(), "no-lock") {
		t.Errorf("the error for an unknown lesson does not list the lessons: %v", err)
	}
}

func TestLessonFailsUnlessEachAuditIsAsExpected(t *testing.T) {
	reporting := func(ok bool) func(*testbed.Run) { return func(r *testbed.Run) { r.Report(ok) } }
	for _, tt := range []struct {
		name             string
		broken, cured    bool // the audits' results
		want             error
		wantLastSentence string
	}{
		{"both as expected", false, true, nil, "the invariants hold, as expected"},
		{"the broken variant holds", true, true, lesson.ErrNotShown, "the invariants hold, as expected"},
		{"the cure does not hold", false, false, lesson.ErrNotShown, "an invariant is broken, which was NOT expected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lesson.Lesson{Name: "test", Variants: []lesson.Variant{{Breaks: true, Script: reporting(tt.broken)}, {Script: reporting(tt.cured)}}}
			var out bytes.Buffer
			if err := l.Run(t.Context(), testbed.New(testbed.Config{}), &out); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); strings.TrimSpace(lines[len(lines)-1]) != tt.wantLastSentence {
				t.Errorf("the output ends with %q, want %q", lines[len(lines)-1], tt.wantLastSentence)
			}
		})
	}
}

func TestFailedStepEndsTheRun(t *testing.T) {
	boom := errors.New("boom")
	cleaned := false
	l := lesson.Lesson{Name: "test", Variants: []lesson.Variant{{Breaks: true, Script: func(run *testbed.Run) {
		a := run.Actor("A")
		run.Cleanup(func() error { cleaned = true; return nil })
		a.Start("blocks", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		a.Do("fails", func(context.Context) error { return boom })
	}}}}
	err := l.Run(t.Context(), testbed.New(testbed.Config{}), io.Discard)
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "A: fails") || !cleaned {
		t.Errorf("got %v, cleaned up %v", err, cleaned)
	}
}

func TestAuditFindsUnsoldUnitsAfterARefusal(t *testing.T) {
	bed := testbed.New(testbed.Config{})
	t.Cleanup(func() { _ = bed.Close() })
	for _, tt := range []struct {
		name  string
		sells bool // to another buyer, after the refusal
		want  bool
	}{{"a unit remains", false, false}, {"the unit is sold later", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			audit, err := bed.Run(t.Context(), nil, func(run *testbed.Run) {
				shop := run.Shop(1)
				shop.Refuse("A", 1, "locked")
				if tt.sells {
					shop.Buyer("B").ReadAndSell()
				}
			})
			if err != nil || audit.OK != tt.want {
				t.Errorf("got %+v, %v, want OK %v", audit, err, tt.want)
			}
		})
	}
}
