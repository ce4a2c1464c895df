// Package lesson has the lessons: each plays a race that oversells, or breaks
// another invariant, and then the same with its cure. The order of the steps is
// forced, so that what is broken breaks every time. Broken ways to sell stand
// here alone; the service has none of them.
//
// A lesson is a row of the registry, a file here, and a page in docs/lessons.
package lesson

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"flashsale/loadtest/lesson/testbed"
)

// Lesson is one race and its cure.
type Lesson struct {
	// Name is the command's argument and the page's name.
	Name string
	// Title is what is learned, in a few words.
	Title string
	// Shows says in a sentence what one sees.
	Shows string
	// Servers are those that the lesson starts.
	Servers []Server
	// Acts are played in their order: what is broken first.
	Acts []Act
}

// Server is one that a lesson needs.
type Server string

// The servers that lessons are played on. All are private and real.
const (
	MySQL     Server = "MySQL"
	Galera    Server = "Galera"
	Etcd      Server = "etcd"
	Redis     Server = "Redis"
	Memcached Server = "memcached"
	ZooKeeper Server = "ZooKeeper"
)

// Act is one run of the race, in one way to sell.
type Act struct {
	// Title says in which way.
	Title string
	// Breaks: the audit must fail after it. Else it must pass.
	Breaks bool
	// Play takes the steps, and audits what came of them.
	Play func(*testbed.Play) testbed.Audit
}

// ErrNotShown says that a lesson did not show what it is there to show: what is
// broken held, or the cure did not.
var ErrNotShown = errors.New("the lesson did not show what it should")

// Run plays the lesson and writes down on w what happens. It returns ErrNotShown
// after a run to the end in which an audit did not say what it must.
func (l *Lesson) Run(ctx context.Context, s *testbed.Testbed, w io.Writer) error {
	fmt.Fprintf(w, "%s: %s\n%s\n", l.Name, l.Title, l.Shows)
	shown := true
	for i, act := range l.Acts {
		fmt.Fprintf(w, "\n%d. %s: %s\n", i+1, act.kind(), act.Title)
		audit, err := s.Play(ctx, func(line testbed.Line) { fmt.Fprintln(w, " ", line) }, act.Play)
		if err != nil {
			return fmt.Errorf("lesson %s, act %d: %w", l.Name, i+1, err)
		}
		for _, text := range audit.Text {
			fmt.Fprintf(w, "  audit    %s\n", text)
		}
		verdict, as := "held", "as it must"
		if !audit.OK {
			verdict = "broken"
		}
		if audit.OK == act.Breaks {
			shown, as = false, "which it MUST NOT be"
		}
		fmt.Fprintf(w, "  %s, %s\n", verdict, as)
	}
	if !shown {
		return fmt.Errorf("lesson %s: %w", l.Name, ErrNotShown)
	}
	return nil
}

func (a *Act) kind() string {
	if a.Breaks {
		return "Broken"
	}
	return "Cured"
}

// Needs lists the lesson's servers.
func (l *Lesson) Needs() string {
	names := make([]string, len(l.Servers))
	for i, s := range l.Servers {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}
