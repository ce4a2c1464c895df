// Package lesson has the lessons. Each runs a race that oversells, or breaks
// another invariant, and then the same race with a cure. The order of the steps is
// forced, so that the broken code breaks every time. Broken ways to sell exist
// only here; the service has none of them.
//
// A lesson is a row of the registry, a file here, and a page in docs/lessons.
package lesson

import (
	"context"
	"errors"
	"fmt"
	"io"

	"flashsale/loadtest/lesson/testbed"
)

// Lesson is one race and its cure.
type Lesson struct {
	// Name is the command's argument and the page's name.
	Name string
	// Title is what the lesson teaches, in a few words, and Chinese is the same for teachers
	// in China, in the words of their field.
	Title, Chinese string
	// Shows describes the race in a sentence or two.
	Shows string
	// Servers are those that the lesson starts.
	Servers []string
	// Variants run in this order: a broken one comes first.
	Variants []Variant
}

// The servers that lessons run on. All are private and real.
const (
	MySQL      = testbed.MySQL
	Galera     = testbed.Galera
	Etcd       = testbed.Etcd
	Redis      = testbed.Redis
	Memcached  = testbed.Memcached
	ZooKeeper  = testbed.ZooKeeper
	Kubernetes = testbed.Kubernetes
	Node       = "Kubernetes node" // a whole cluster, which runs pods
)

// Variant is the race with one way to sell.
type Variant struct {
	// Title names the way to sell.
	Title string
	// Breaks: the audit must fail after the script. Otherwise it must pass.
	Breaks bool
	// Script takes the steps. The audit follows.
	Script func(*testbed.Run)
}

// ErrNotShown means that the broken code held, or that the cure did not.
var ErrNotShown = errors.New("an audit did not have the expected result")

// Observer watches a lesson while it is played. Its methods are called one at a time.
type Observer interface {
	// Variant is called before a variant runs. It is the nth, counted from 0.
	Variant(n int, v *Variant)
	// Line is called with each step of the variant.
	Line(line testbed.Line)
	// Result is called after the audit.
	Result(r Result)
}

// Result is that of a variant.
type Result struct {
	testbed.Audit
	// Expected: the audit has failed if the variant is broken, and has passed otherwise.
	Expected bool
}

// String says how the audit ended.
func (r Result) String() string {
	result, expected := "the invariants hold", "as expected"
	if !r.OK {
		result = "an invariant is broken"
	}
	if !r.Expected {
		expected = "which was NOT expected"
	}
	return result + ", " + expected
}

// Play runs the lesson's variants before an observer. It returns ErrNotShown if all
// variants ran but an audit did not have the expected result.
func (l *Lesson) Play(ctx context.Context, bed *testbed.Testbed, to Observer) error {
	shown := true
	for i, v := range l.Variants {
		to.Variant(i, &v)
		audit, err := bed.Run(ctx, to.Line, v.Script)
		if err != nil {
			return fmt.Errorf("lesson %s, variant %d: %w", l.Name, i+1, err)
		}
		expected := audit.OK != v.Breaks
		to.Result(Result{audit, expected})
		shown = shown && expected
	}
	if !shown {
		return fmt.Errorf("lesson %s: %w", l.Name, ErrNotShown)
	}
	return nil
}

// Run plays the lesson and writes its log to w.
func (l *Lesson) Run(ctx context.Context, bed *testbed.Testbed, w io.Writer) error {
	fmt.Fprintf(w, "%s: %s\n%s\n", l.Name, l.Title, l.Shows)
	return l.Play(ctx, bed, printer{w})
}

// printer writes a lesson's log.
type printer struct{ w io.Writer }

func (p printer) Variant(n int, v *Variant) {
	kind := "Cured"
	if v.Breaks {
		kind = "Broken"
	}
	fmt.Fprintf(p.w, "\n%d. %s: %s\n", n+1, kind, v.Title)
}

func (p printer) Line(line testbed.Line) { fmt.Fprintln(p.w, " ", line) }

func (p printer) Result(r Result) {
	for _, text := range r.Text {
		fmt.Fprintf(p.w, "  audit    %s\n", text)
	}
	fmt.Fprintf(p.w, "  %s\n", r)
}
