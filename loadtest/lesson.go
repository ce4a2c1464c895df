package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
	"flashsale/loadtest/report"
)

type lessonCmd struct {
	databaseFlags
	Name string `arg:"" optional:"" placeholder:"NAME" help:"The lesson, one of ${lessons}."`
}

// Run plays one lesson.
func (c *lessonCmd) Run(ctx context.Context, s streams) error {
	if c.Name == "" {
		return errors.New("name a lesson; loadtest lessons lists them")
	}
	l, err := lesson.Find(c.Name)
	if err != nil {
		return err
	}
	return playLessons(ctx, s, c.Database, l)
}

type lessonsCmd struct {
	databaseFlags
	All bool `help:"Play all lessons, one after the other."`
}

// Run lists the lessons, or plays all of them.
func (c *lessonsCmd) Run(ctx context.Context, s streams) error {
	if c.All {
		return playLessons(ctx, s, c.Database, lesson.All()...)
	}
	var rows [][]string
	for _, l := range lesson.All() {
		rows = append(rows, []string{l.Name, l.Title, strings.Join(l.Servers, ", ")})
	}
	fmt.Fprintln(s.out, report.Grid("", []string{"lesson", "what it shows", "servers"}, rows, 3, 0))
	fmt.Fprintln(s.out, "\nPlay one with `loadtest lesson NAME`. Its page, with questions and their answers, is docs/lessons/NAME.md.")
	return nil
}

// playLessons plays lessons on one set of servers. It goes on after a lesson that does
// not show what it should, or cannot run.
func playLessons(ctx context.Context, s streams, database sandbox.Product, lessons ...*lesson.Lesson) (err error) {
	set := testbed.New(testbed.Config{Database: database})
	defer func() { err = errors.Join(err, set.Close()) }()
	if slices.ContainsFunc(lessons, func(l *lesson.Lesson) bool { return slices.Contains(l.Servers, lesson.MySQL) }) {
		version, err := set.Database(ctx)
		if err != nil {
			return err
		}
		nameDatabase(s, version)
	}
	var missed, failed error
	for i, l := range lessons {
		if i > 0 {
			fmt.Fprintln(s.out)
		}
		switch err := l.Run(ctx, set, s.out); {
		case errors.Is(err, lesson.ErrNotShown): // s.out explains it
			missed = errNotProven
		case ctx.Err() != nil: // interrupted: the error says no more
			return ctx.Err()
		case err != nil:
			failed = errors.Join(failed, err)
		}
	}
	if failed != nil {
		return failed
	}
	return missed
}
