package exercise

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

// A check passes each right solution, and fails what a student begins with and plausible wrong
// solutions, each with the steps that show why.
func TestChecks(t *testing.T) {
	t.Cleanup(func() { leaks.None(t) })
	bed := testbed.New(testbed.Config{EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}})
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	const oversold = "broken: conservation: oversold by 1 unit"
	for _, tt := range []struct {
		exercise *Exercise
		dir      string   // of the code
		steps    []string // parts of steps, in this order
		broken   string   // part of what is broken; empty if the check passes
	}{
		{&findTheRace, "tasks", []string{"A: SELECT available", "A: is stopped before: UPDATE", "B: SELECT available", "B: COMMIT", "A: UPDATE", "A: COMMIT"}, oversold},
		{&findTheRace, "testdata/look-twice", []string{"A: SELECT", "A: SELECT", "A: is stopped before: UPDATE", "B: COMMIT", "A: UPDATE", "A: COMMIT"}, oversold},
		{&findTheRace, "testdata/lock-in-share-mode", []string{"A: SELECT", "B: SELECT", "B: UPDATE"}, "got an error in place of an answer: Error 1213"},
		{&findTheRace, "testdata/solved", nil, ""},
		{&findTheRace, "testdata/get-lock", nil, ""},
		{&findTheRace, "testdata/polls-get-lock", nil, ""},
		{&findTheRace, "testdata/lock-tables", nil, ""},
		{&unlockOnlyYourOwn, "tasks", []string{"A: has the lock", "etcd ends its lease", "B: has the lock", "A: delete", "C: has the lock"}, oversold},
		{&unlockOnlyYourOwn, "testdata/get-then-delete", []string{"A: get", "A: is stopped before: delete", "B: has the lock", "A: delete", "C: has the lock"}, oversold},
		{&unlockOnlyYourOwn, "testdata/never-unlocks", []string{"A: has unlocked", "B: the lock is held by another"}, "B was refused the lock"},
		{&unlockOnlyYourOwn, "testdata/compare-owner", []string{"A: has the lock", "etcd ends its lease", "A: has the lock", "A: if value(lock/sneaker) = \"A\"", "A: has unlocked its former grant", "B: has the lock"}, oversold},
		{&unlockOnlyYourOwn, "testdata/solved", nil, ""},
		{&pausedHolder, "tasks", []string{"A: has the lock", "A: SELECT", "A: its process is paused", "B: has the lock", "B: COMMIT", "A: its process goes on", "A: COMMIT"}, oversold},
		{&pausedHolder, "testdata/look-at-the-lease", []string{"A: its process is paused", "B: COMMIT", "A: UPDATE", "A: COMMIT"}, oversold},
		{&pausedHolder, "testdata/compare-on-write", []string{"A: its process is paused", "B: SELECT", "A: COMMIT", "B: UPDATE", "B: COMMIT"}, oversold},
		{&pausedHolder, "testdata/solved", nil, ""},
		{&lostAnswer, "tasks", []string{"A: COMMIT", "A: its process is killed", "B: gets the order of ann", "B: COMMIT"}, "ann was told of 1 order, but the database has 2"},
		{&lostAnswer, "testdata/sold-out-first", []string{"A: COMMIT", "A: its process is killed", "B: UPDATE", "B: answers: sold out"}, "ann is refused"},
		{&lostAnswer, "testdata/look-first", []string{"A: SELECT COUNT", "B: SELECT COUNT", "B: COMMIT", "A: INSERT"}, "A got an error in place of an answer: Error 1062"},
		{&lostAnswer, "testdata/solved", nil, ""},
		{&lostAnswer, "testdata/insert-first", nil, ""},
		{&lostAnswer, "testdata/get-lock", nil, ""},
		{&lostAnswer, "testdata/lock-tables", nil, ""},
		{&writeALock, "tasks", []string{"A: has the lock", "B: has the lock"}, "the tokens of three grants are 0, 0 and 0"},
		{&writeALock, "testdata/get-then-put", []string{"A: is stopped before: put", "B: has the lock", "A: put", "A: has the lock"}, oversold},
		{&writeALock, "testdata/deletes-any", []string{"etcd ends its lease", "B: has the lock", "A: delete", "C: has the lock"}, oversold},
		{&writeALock, "testdata/no-renewal", []string{"A: works for", "B: has the lock"}, "B got the lock although another holds it"},
		{&writeALock, "testdata/compare-owner", []string{"A: has the lock", "etcd ends its lease", "A: has the lock", "A: if value(lock/sneaker) = \"A\"", "A: has unlocked its former grant", "B: has the lock"}, oversold},
		{&writeALock, "testdata/solved", nil, ""},
	} {
		t.Run(tt.exercise.Name+"/"+filepath.Base(tt.dir), func(t *testing.T) {
			t.Parallel()
			folder, err := Open(t.Context(), filepath.Join("loadtest/exercise", tt.dir))
			if err != nil {
				t.Fatal(err)
			}
			program, err := folder.Build(t.Context(), tt.exercise, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			failure, err := tt.exercise.Check(t.Context(), bed, program, func(string) {})
			if err != nil {
				t.Fatal(err)
			}
			if tt.broken == "" {
				if failure != nil {
					t.Error(failure)
				}
				return
			}
			if failure == nil {
				t.Fatal("the check has passed")
			}
			if !strings.Contains(strings.Join(failure.Broken, "\n"), tt.broken) {
				t.Errorf("want %q among what is broken:\n%s", tt.broken, failure)
			}
			rest := failure.Steps
			for _, want := range tt.steps {
				i := slices.IndexFunc(rest, func(step string) bool { return strings.Contains(step, want) })
				if i < 0 {
					t.Fatalf("want the steps %q in this order; %q is missing:\n%s", tt.steps, want, failure)
				}
				rest = rest[i+1:]
			}
		})
	}
}

// begin starts find-the-race in a folder of the checkout, which the test's end removes.
func begin(t *testing.T) (folder *Folder, file string) {
	t.Helper()
	dir, err := os.MkdirTemp("testdata", "student-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	folder, err = Open(t.Context(), filepath.Join("loadtest/exercise", dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := folder.Start(&findTheRace); err != nil {
		t.Fatal(err)
	}
	return folder, filepath.Join(dir, "find-the-race", "exercise.go")
}

func TestStartOverwritesNothing(t *testing.T) {
	folder, file := begin(t)
	if err := os.WriteFile(file, []byte("my work"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := folder.Start(&findTheRace); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "my work" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if started := folder.Started(); len(started) != 1 || started[0] != &findTheRace {
		t.Errorf("started: %v", started)
	}
}

func TestCompilersErrorIsShown(t *testing.T) {
	folder, file := begin(t)
	if err := os.WriteFile(file, []byte("package main\n\nfunc main() { undefined() }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := folder.Build(t.Context(), &findTheRace, t.TempDir())
	if !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "exercise.go:3:15: undefined: undefined") {
		t.Errorf("got %v", err)
	}
}

func TestFolderMustBeInTheCheckout(t *testing.T) {
	for _, dir := range []string{"/tmp/exercises", "../exercises"} {
		if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v", dir, err)
		}
	}
}

func TestEachExerciseHasItsFiles(t *testing.T) {
	if shop.SKU != testbed.SKU {
		t.Errorf("the exercises sell %s, the testbed %s", shop.SKU, testbed.SKU)
	}
	page, err := os.ReadFile("../../docs/exercises.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		task, err := tasks.ReadFile("tasks/" + e.Name + "/README.md")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(task), "<details>") || !strings.Contains(string(task), "exercise check "+e.Name) {
			t.Errorf("the task of %s has no hint, or does not say how to check", e.Name)
		}
		if !strings.Contains(string(page), "`"+e.Name+"`") {
			t.Errorf("docs/exercises.md does not list %s", e.Name)
		}
	}
}
