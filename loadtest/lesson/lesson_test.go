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
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
)

var update = flag.Bool("update", false, "put what the lessons print into their pages")

// TestMain lets this test's binary be a lesson's replica.
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

// patience is what a class has for one lesson.
const patience = 30 * time.Second

// TestLessons plays every lesson: what is broken must break, the cure must hold,
// and the page must show what is printed.
func TestLessons(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	set := testbed.New(testbed.Config{EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}})
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, l := range lesson.All() {
		t.Run(l.Name, func(t *testing.T) {
			// A machine that has other things to do may need another try.
			var took []time.Duration
			for len(took) < 3 && (len(took) == 0 || slices.Min(took) > patience) {
				var out bytes.Buffer
				began := time.Now()
				if err := l.Run(t.Context(), set, &out); err != nil {
					t.Fatalf("%v\n%s", err, out.String())
				}
				took = append(took, time.Since(began))
				checkPrinted(t, l, out.String())
			}
			if slices.Min(took) > patience {
				t.Errorf("it took %s, and a lesson has %s", took, patience)
			}
		})
	}
}

// checkPrinted compares a page's example with what was printed now.
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
		t.Errorf("%s does not show what is printed (-page +now); go test ./loadtest/lesson -update writes it:\n%s", path, diff)
	}
}

// masked is text without what differs from run to run: times, and counts of
// requests.
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

func TestEveryLessonHasItsPage(t *testing.T) {
	index := read(t, filepath.Join(pages, "README.md"))
	for _, l := range lesson.All() {
		page := read(t, pageOf(l.Name))
		if !strings.Contains(page, "$ "+commandOf(l)+"\n") {
			t.Errorf("%s does not say how the lesson is played: %s", pageOf(l.Name), commandOf(l))
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
			t.Errorf("%s is a page of no lesson", path)
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

func TestRegistryIsSound(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range lesson.All() {
		if seen[l.Name] || l.Name == "" || l.Title == "" || l.Shows == "" || len(l.Servers) == 0 {
			t.Errorf("%q: two of that name, or something is missing: %+v", l.Name, l)
		}
		seen[l.Name] = true
		if !l.Acts[0].Breaks {
			t.Errorf("%s does not begin with what is broken", l.Name)
		}
		if !slices.ContainsFunc(l.Acts, func(a lesson.Act) bool { return !a.Breaks }) {
			t.Errorf("%s has no cure", l.Name)
		}
		if found, err := lesson.Find(l.Name); err != nil || found != l {
			t.Errorf("Find(%q): %v, %v", l.Name, found, err)
		}
	}
	if _, err := lesson.Find("nope"); err == nil || !strings.Contains(err.Error(), "no-lock") {
		t.Errorf("the error for an unknown lesson does not name those there are: %v", err)
	}
}

func TestLessonThatDoesNotShowItFails(t *testing.T) {
	saying := func(ok bool) func(*testbed.Play) testbed.Audit {
		return func(*testbed.Play) testbed.Audit { return testbed.Audit{OK: ok} }
	}
	for _, tt := range []struct {
		name             string
		broken, cured    bool // what the audits say
		want             error
		wantLastSentence string
	}{
		{"as it should be", false, true, nil, "held, as it must"},
		{"what is broken holds", true, true, lesson.ErrNotShown, "held, as it must"},
		{"the cure does not hold", false, false, lesson.ErrNotShown, "broken, which it MUST NOT be"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lesson.Lesson{Name: "test", Acts: []lesson.Act{{Breaks: true, Play: saying(tt.broken)}, {Play: saying(tt.cured)}}}
			var out bytes.Buffer
			if err := l.Run(t.Context(), testbed.New(testbed.Config{}), &out); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); strings.TrimSpace(lines[len(lines)-1]) != tt.wantLastSentence {
				t.Errorf("it ends with %q, want %q", lines[len(lines)-1], tt.wantLastSentence)
			}
		})
	}
}

func TestStepThatFailsEndsTheAct(t *testing.T) {
	boom := errors.New("boom")
	cleaned := false
	l := lesson.Lesson{Name: "test", Acts: []lesson.Act{{Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
		a := p.Actor("A")
		p.Cleanup(func() error { cleaned = true; return nil })
		a.Begins("waits for ever", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		a.Does("stumbles", func(context.Context) error { return boom })
		return testbed.Audit{}
	}}}}
	err := l.Run(t.Context(), testbed.New(testbed.Config{}), io.Discard)
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "A: stumbles") || !cleaned {
		t.Errorf("got %v, cleaned up %v", err, cleaned)
	}
}

func TestAuditFindsWhatIsLeftUnsold(t *testing.T) {
	set := testbed.New(testbed.Config{})
	t.Cleanup(func() { _ = set.Close() })
	for _, tt := range []struct {
		name  string
		sells bool // somebody else, after the refusal
		want  bool
	}{{"a unit stays", false, false}, {"it is sold later", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			audit, err := set.Play(t.Context(), nil, func(p *testbed.Play) testbed.Audit {
				shop := p.Shop(1)
				shop.Refuse("A", 1, "locked")
				if tt.sells {
					b := shop.Buyer("B")
					b.Read()
					b.Sell(1)
				}
				return shop.Audit()
			})
			if err != nil || audit.OK != tt.want {
				t.Errorf("got %+v, %v, want OK %v", audit, err, tt.want)
			}
		})
	}
}
