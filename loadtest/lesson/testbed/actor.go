package testbed

import (
	"context"
	"fmt"
	"time"
)

// Line is one step of a play, as it is written down.
type Line struct {
	At    time.Duration // since the play's first line
	Lane  int           // the actor's, counted from 0
	Actor string
	Text  string
}

// laneWidth sets the actors' steps apart, so that three of them fit beside one
// another on a page.
const laneWidth = 12

// String is the line as it is printed: the further to the right, the later the
// actor came on.
func (l Line) String() string {
	return fmt.Sprintf("%5.1f s  %*s%s: %s", l.At.Seconds(), l.Lane*laneWidth, "", l.Actor, l.Text)
}

// Actor is somebody who takes steps: a replica, a buyer's request, an operator.
type Actor struct {
	Name string
	play *Play
	lane int
}

// Actor brings one on. Its lane is right of all who are on already.
func (p *Play) Actor(name string) *Actor {
	a := &Actor{Name: name, play: p, lane: len(p.actors)}
	p.actors = append(p.actors, a)
	return a
}

// Says writes down what the actor does.
func (a *Actor) Says(format string, args ...any) {
	p := a.play
	now := time.Now()
	if p.began.IsZero() {
		p.began = now // servers had to start first
	}
	if p.say != nil {
		p.say(Line{At: now.Sub(p.began), Lane: a.lane, Actor: a.Name, Text: fmt.Sprintf(format, args...)})
	}
}

// Does writes down a step and takes it.
func (a *Actor) Does(what string, f func(ctx context.Context) error) {
	a.Says("%s", what)
	if err := f(a.play.ctx); err != nil {
		a.play.Fail("%s: %s: %w", a.Name, what, err)
	}
}

// Begins writes down a step that may have to wait, and begins it, on a goroutine
// of its own.
func (a *Actor) Begins(what string, f func(ctx context.Context) error) *Step {
	a.Says("%s", what)
	s := &Step{actor: a, what: what, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = f(a.play.ctx)
	}()
	// Whatever becomes of the play, it is over only when its steps are.
	a.play.Cleanup(func() error { <-s.done; return nil })
	return s
}

// Step is one that was begun.
type Step struct {
	actor *Actor
	what  string
	done  chan struct{}
	err   error
}

// Done is closed when the step has ended.
func (s *Step) Done() <-chan struct{} { return s.done }

// Wait waits for the end of the step, and returns its error.
func (s *Step) Wait() error {
	<-s.done // f ends with the play's context at the latest
	return s.err
}

// Ends waits for the end of a step that must succeed.
func (s *Step) Ends() {
	if err := s.Wait(); err != nil {
		s.actor.play.Fail("%s: %s: %w", s.actor.Name, s.what, err)
	}
}

// MustWait fails the play if the step has ended: the lesson is that it has to
// wait. Call it after something has shown that it got to the server.
func (s *Step) MustWait() {
	select {
	case <-s.done:
		s.actor.play.Fail("%s did not have to wait: %s (%v)", s.actor.Name, s.what, s.err)
	default:
	}
}
