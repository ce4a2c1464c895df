// Package exercise has the exercises that follow the lessons. Each gives a student a
// folder with code that sells the same unit twice, or breaks another promise. Its check
// runs the student's code on real servers, forces the order of the steps, and explains a
// failure by the steps that led to it.
//
// An exercise is a row of the registry, a file here with its rounds, and a folder in
// tasks. What the student's code is given is in package shop.
package exercise

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"flashsale/loadtest/lesson/testbed"
)

// Exercise is one task with its check.
type Exercise struct {
	// Name is the command's argument and the folder's name.
	Name string
	// Title is what the student learns, in a few words.
	Title string
	// Servers are those that the check starts.
	Servers []string
	// rounds check the code. A round that fails ends the check.
	rounds func(*check)
}

// all are the exercises in the order in which a student takes them.
var all = []*Exercise{&findTheRace, &unlockOnlyYourOwn, &pausedHolder, &lostAnswer, &writeALock}

// All returns the registry in its order.
func All() []*Exercise { return slices.Clone(all) }

// Names returns the exercises' names in their order.
func Names() []string {
	names := make([]string, len(all))
	for i, e := range all {
		names[i] = e.Name
	}
	return names
}

// Find returns the exercise of that name.
func Find(name string) (*Exercise, error) {
	i := slices.Index(Names(), name)
	if i < 0 {
		return nil, fmt.Errorf("unknown exercise %q: must be one of %s", name, strings.Join(Names(), ", "))
	}
	return all[i], nil
}

//go:embed tasks
var tasks embed.FS

// Folder is where students' exercises are: a folder of the checkout, whose code may
// import the module's internal packages.
type Folder struct {
	root string // of the module
	dir  string // relative to root
}

// Open returns the folder dir of the checkout that the working directory is in.
func Open(ctx context.Context, dir string) (*Folder, error) {
	if !filepath.IsLocal(dir) {
		return nil, fmt.Errorf("%s: must be a folder in the checkout, relative to its root: the code imports the module's internal packages", dir)
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "flashsale").Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		return nil, errors.New("exercises need Go, and a checkout of the source as working directory")
	}
	return &Folder{root, dir}, nil
}

// path is an exercise's folder, from the checkout.
func (f *Folder) path(e *Exercise) string { return filepath.Join(f.dir, e.Name) }

// Start writes an exercise's files, and returns their folder. It overwrites nothing.
func (f *Folder) Start(e *Exercise) (path string, err error) {
	files, err := fs.Sub(tasks, "tasks/"+e.Name)
	if err != nil {
		return "", err
	}
	path = f.path(e)
	into := filepath.Join(f.root, path)
	if _, err := os.Lstat(into); err == nil {
		return "", fmt.Errorf("%s exists already: work on there, or move it away to start again", path)
	}
	return path, os.CopyFS(into, files)
}

// Started returns the exercises whose folders are there.
func (f *Folder) Started() (started []*Exercise) {
	for _, e := range all {
		if _, err := os.Stat(filepath.Join(f.root, f.path(e))); err == nil {
			started = append(started, e)
		}
	}
	return started
}

// ErrNotBuilt means that the code was not checked, because it does not compile.
var ErrNotBuilt = errors.New("the code does not compile")

// Build builds an exercise's program into the folder dir. The flags are the Makefile's, so that
// what is compiled already is used.
func (f *Folder) Build(ctx context.Context, e *Exercise, dir string) (program string, err error) {
	if _, err := os.Stat(filepath.Join(f.root, f.path(e))); err != nil {
		return "", fmt.Errorf("there is no %s: begin with exercise start %s", f.path(e), e.Name)
	}
	program = filepath.Join(dir, e.Name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./"+filepath.ToSlash(f.path(e)))
	cmd.Dir = f.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.WaitDelay = time.Second // its compilers have its output open
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w:\n%s", ErrNotBuilt, strings.TrimSpace(string(out)))
	}
	return program, nil
}

// Check checks a program of the exercise on the testbed's servers, and reports each part that
// has passed. The failure is nil if all have; the error means that the code was not checked.
func (e *Exercise) Check(ctx context.Context, bed *testbed.Testbed, program string, passed func(what string)) (failure *Failure, err error) {
	c := &check{program: program, locks: slices.Contains(e.Servers, testbed.Etcd), passed: passed}
	_, err = bed.Run(ctx, c.log, func(run *testbed.Run) { failure = c.all(run, e) })
	return failure, err
}
