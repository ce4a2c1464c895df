package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/exercise"
	"flashsale/loadtest/lesson/testbed"
	"flashsale/loadtest/report"
)

type exerciseCmd struct {
	List  exerciseListCmd  `cmd:"" default:"1" help:"List the exercises."`
	Start exerciseStartCmd `cmd:"" help:"Write the folder of an exercise: its task, and code to fix."`
	Check exerciseCheckCmd `cmd:"" help:"Run your code on private servers. The exit status is 0 if it has passed, 1 if it has failed, and 2 if it could not be checked."`
}

// errNotChecked ends the program with status 2.
var errNotChecked = errors.New("not checked")

type exerciseListCmd struct{}

// Run lists the exercises.
func (exerciseListCmd) Run(s streams) error {
	var rows [][]string
	for _, e := range exercise.All() {
		rows = append(rows, []string{e.Name, e.Title, strings.Join(e.Servers, ", ")})
	}
	fmt.Fprintln(s.out, report.Grid("", []string{"exercise", "what it is about", "servers"}, rows, 3, 0))
	fmt.Fprintln(s.out, "\nBegin with `loadtest exercise start NAME`. docs/exercises.md says more.")
	return nil
}

type exerciseFolderFlag struct {
	Dir string `default:"exercises" placeholder:"DIR" help:"Folder of your exercises, relative to the checkout's root (default ${default})."`
}

type exerciseStartCmd struct {
	exerciseFolderFlag
	Name string `arg:"" placeholder:"NAME" help:"The exercise, one of ${exercises}."`
}

// Run writes an exercise's folder.
func (c *exerciseStartCmd) Run(ctx context.Context, s streams) error {
	e, err := exercise.Find(c.Name)
	if err != nil {
		return err
	}
	folder, err := exercise.Open(ctx, c.Dir)
	if err != nil {
		return err
	}
	path, err := folder.Start(e)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Read %s/README.md, fix %[1]s/exercise.go, then run: bin/loadtest exercise check %s\n", path, e.Name)
	return nil
}

type exerciseCheckCmd struct {
	databaseFlags
	exerciseFolderFlag
	Name string `arg:"" optional:"" placeholder:"NAME" help:"The exercise; without it, all that were started."`
}

// Run checks one exercise, or all that were started. It goes on after one that fails.
func (c *exerciseCheckCmd) Run(ctx context.Context, s streams) (err error) {
	folder, err := exercise.Open(ctx, c.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotChecked, err)
	}
	list := folder.Started()
	if c.Name != "" {
		e, err := exercise.Find(c.Name)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotChecked, err)
		}
		list = []*exercise.Exercise{e}
	}
	if len(list) == 0 {
		return fmt.Errorf("%w: no exercise was started in %s", errNotChecked, c.Dir)
	}
	dir, remove, err := sandbox.TempFolder()
	if err != nil {
		return fmt.Errorf("%w: %w", errNotChecked, err)
	}
	bed := testbed.New(testbed.Config{Database: c.Database})
	defer func() { err = errors.Join(err, bed.Close(), remove()) }()
	var failed, unchecked error
	for _, e := range list {
		failure, err := c.check(ctx, s, bed, folder, e, dir)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			unchecked = errors.Join(unchecked, fmt.Errorf("%w: %s: %w", errNotChecked, e.Name, err))
		case failure != nil:
			fmt.Fprintf(s.out, "\n%s", failure)
			failed = errNotProven // s.out explains it
		default:
			fmt.Fprintln(s.out, "Passed.")
		}
	}
	return cmp.Or(unchecked, failed)
}

// check checks one exercise. The database starts only if its code compiles.
func (c *exerciseCheckCmd) check(ctx context.Context, s streams, bed *testbed.Testbed, folder *exercise.Folder, e *exercise.Exercise, dir string) (*exercise.Failure, error) {
	program, err := folder.Build(ctx, e, dir)
	if err != nil {
		return nil, err
	}
	version, err := bed.Database(ctx)
	if err != nil {
		return nil, err
	}
	nameDatabase(s, version)
	fmt.Fprintf(s.out, "%s: %s\n", e.Name, e.Title)
	return e.Check(ctx, bed, program, func(what string) { fmt.Fprintf(s.out, "  ok  %s\n", what) })
}
