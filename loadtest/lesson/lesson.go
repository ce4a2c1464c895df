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
	// Title is what the lesson teaches, in a few words.
	Title string
	// Shows describes the race in a sentence or two.
	Shows string
	// Servers are those that the lesson starts.
	Servers []string
	// Variants run in this order: a broken one comes first.
	Variants []Variant
}

// The servers that lessons run on. All are private and real.
const (
	MySQL     = "MySQL"
	Galera    = "Galera"
	Etcd      = "etcd"
	Redis     = "Redis"
	Memcached = "memcached"
	ZooKeeper = "ZooKeeper"
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

// Run runs the lesson and writes its log to w. It returns ErrNotShown if all
// variants ran but an audit did not have the expected result.
func (l *Lesson) Run(ctx context.Context, bed *testbed.Testbed, w io.Writer) error {
	fmt.Fprintf(w, "%s: %s\n%s\n", l.Name, l.Title, l.Shows)
	shown := true
	for i, v := range l.Variants {
		kind := "Cured"
		if v.Breaks {
			kind = "Broken"
		}
		fmt.Fprintf(w, "\n%d. %s: %s\n", i+1, kind, v.Title)
		audit, err := bed.Run(ctx, func(line testbed.Line) { fmt.Fprintln(w, " ", line) }, v.Script)
		if err != nil {
			return fmt.Errorf("lesson %s, variant %d: %w", l.Name, i+1, err)
		}
		for _, text := range audit.Text {
			fmt.Fprintf(w, "  audit    %s\n", text)
		}
		result, expected := "the invariants hold", "as expected"
		if !audit.OK {
			result = "an invariant is broken"
		}
		if audit.OK == v.Breaks {
			shown, expected = false, "which was NOT expected"
		}
		fmt.Fprintf(w, "  %s, %s\n", result, expected)
	}
	if !shown {
		return fmt.Errorf("lesson %s: %w", l.Name, ErrNotShown)
	}
	return nil
}
