package testbed

import (
	"context"
	"fmt"
	"time"
)

// Line is one logged step of a run.
type Line struct {
	At    time.Duration // since the run's first line
	Lane  int           // the actor's column, counted from 0
	Actor string
	Role  Role
	Text  string
	// Server is what the step is about, "" if it is about none.
	Server string
	Kind   Kind
}

// Role says what an actor is.
type Role string

// The roles.
const (
	IsBuyer   Role = "buyer"
	IsReplica Role = "replica"
	IsOther   Role = "other" // an operator, for example
)

// Kind says what a step does, for those who draw it.
type Kind string

// The kinds of steps.
const (
	Note   Kind = "note"
	Read   Kind = "read"
	Write  Kind = "write"
	Commit Kind = "commit" // or rolls back
	Lock   Kind = "lock"   // asks for a lock, gets it or releases it
	Refuse Kind = "refuse" // a server refuses something, or the actor refuses an order
	Fault  Kind = "fault"
)

// The servers that steps are about.
const (
	MySQL     = "MySQL"
	Galera    = "Galera"
	Etcd      = "etcd"
	Redis     = "Redis"
	Memcached = "memcached"
	ZooKeeper = "ZooKeeper"
	// Kubernetes is its API server.
	Kubernetes = "Kubernetes"
	// Mutex is no server: it excludes the goroutines of one process.
	Mutex = "mutex"
)

// laneWidth indents each actor's steps, so that three columns fit on a page.
const laneWidth = 12

// String is the line as it is printed, in the column of its actor.
func (l Line) String() string {
	return fmt.Sprintf("%5.1f s  %*s%s: %s", l.At.Seconds(), l.Lane*laneWidth, "", l.Actor, l.Text)
}

// Actor takes steps: a replica, a buyer's request, an operator.
type Actor struct {
	Name string
	run  *Run
	lane int
	role Role

	// These are of the steps that are logged through this value, see To.
	server string
	kind   Kind
}

// Actor adds an actor, in the next column.
func (r *Run) Actor(name string) *Actor {
	a := &Actor{Name: name, run: r, lane: len(r.actors), role: IsOther, kind: Note}
	r.actors = append(r.actors, a)
	return a
}

// To returns the actor for a step that concerns a server: a.To(Etcd, Lock).Log("...").
// server is "" if the step concerns none.
func (a *Actor) To(server string, kind Kind) *Actor {
	with := *a
	with.server, with.kind = server, kind
	return &with
}

// as sets the actor's role.
func (a *Actor) as(role Role) *Actor {
	a.role = role
	return a
}

// Log writes a line about what the actor does.
func (a *Actor) Log(format string, args ...any) {
	r := a.run
	now := time.Now()
	if r.began.IsZero() {
		r.began = now // the start of the servers does not count
	}
	if r.log != nil {
		r.log(Line{At: now.Sub(r.began), Lane: a.lane, Actor: a.Name, Role: a.role, Text: fmt.Sprintf(format, args...), Server: a.server, Kind: a.kind})
	}
}

// Do logs a step and takes it. The step must succeed.
func (a *Actor) Do(what string, f func(ctx context.Context) error) { a.Start(what, f).Finish() }

// Start logs a step that may block and starts it on a goroutine of its own.
func (a *Actor) Start(what string, f func(ctx context.Context) error) *Step {
	a.Log("%s", what)
	s := &Step{actor: a, what: what, done: make(chan struct{})}
	a.run.Cleanup(func() error { <-s.done; return nil })
	go func() {
		defer close(s.done)
		s.err = recovered(func() error { return f(a.run.ctx) })
	}()
	return s
}

// Step is a step that was started. It ends with the run at the latest.
type Step struct {
	actor *Actor
	what  string
	done  chan struct{}
	err   error
}

// Wait returns the step's error once it has ended.
func (s *Step) Wait() error {
	<-s.done
	return s.err
}

// Finish waits for the end of a step, which must succeed.
func (s *Step) Finish() {
	if err := s.Wait(); err != nil {
		s.actor.run.Fail("%s: %s: %w", s.actor.Name, s.what, err)
	}
}

// MustBlock ends the script if the step has ended: the lesson is that it blocks.
// Call it after there is evidence that the step has reached the server.
func (s *Step) MustBlock() {
	select {
	case <-s.done:
		s.actor.run.Fail("%s: %s: the step did not block (%v)", s.actor.Name, s.what, s.err)
	default:
	}
}
