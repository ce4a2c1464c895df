package version_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

const program = `package main

import "flashsale/internal/version"

func main() { println(version.Line()) }
`

// Each case builds a small program that uses the package, in its own Git repository.
func TestLineHasVersionCommitAndDate(t *testing.T) {
	folder := t.TempDir()
	source, err := os.ReadFile("version.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod": "module flashsale\n\ngo 1.26.0\n", "main.go": program, "internal/version/version.go": string(source), ".gitignore": "program\n",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = folder
		command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@localhost")
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("git", "init", "-q")
	run("git", "add", ".")
	run("git", "commit", "-q", "-m", "first")
	run("git", "tag", "v0.1.0")
	const set = "-X flashsale/internal/version."
	for _, c := range []struct{ flag, want string }{
		{"-buildvcs=true", `^flashsale v0\.1\.0, commit [0-9a-f]{40}, 2026-01-02T03:04:05Z, go1\S+ \w+/\w+\n$`},
		{"-buildvcs=false", `^flashsale dev, commit unknown, date unknown, go1`},
		{"-ldflags=" + set + "release=v1.2.3 " + set + "commit=abc " + set + "epoch=1700000000", `^flashsale v1\.2\.3, commit abc, 2023-11-14T22:13:20Z, go1`},
		{"-ldflags=" + set + "epoch=0", `date unknown`}, // the default of the Dockerfile
	} {
		args := []string{"build", "-o", "program", "-buildvcs=false", c.flag, "."}
		run("go", args...)
		if got := run("./program"); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%s: got %q, want %s", c.flag, got, c.want)
		}
	}
}
