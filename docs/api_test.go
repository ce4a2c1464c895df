// Package docs_test runs the examples of api.md.
package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	// patience bounds each example, also on a busy machine.
	patience = time.Minute
	// settle bounds the delay until a replica shows a change.
	settle = 15 * time.Second
)

// example is a script of a page, with the output on the page.
type example struct {
	script string
	// kind is "http", "http like" (compares only the types of JSON values), "text",
	// or "" for no output.
	kind string
	want string
}

var blocks = regexp.MustCompile("(?s)```sh\n(.*?)```\n(?:\n```((?:http|text)[a-z ]*)\n(.*?)```\n)?")

func examples(t *testing.T, path string) []example {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	for _, block := range blocks.FindAllStringSubmatch(string(text), -1) {
		all = append(all, example{script: block[1], kind: block[2], want: block[3]})
	}
	return all
}

// TestExamplesOfAPIPage runs all examples of api.md in one shell beside `make up`.
func TestExamplesOfAPIPage(t *testing.T) {
	t.Parallel()
	all := examples(t, "api.md")
	if len(all) < 30 {
		t.Fatalf("found %d examples in api.md, want at least 30", len(all))
	}
	shell := startShell(t, startUp(t))
	for _, e := range all {
		shell.check(t, e)
	}
}

// TestAPIPageHasEveryCall checks that api.md has an example of each operation.
func TestAPIPageHasEveryCall(t *testing.T) {
	t.Parallel()
	document, err := contract.Load(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	var scripts strings.Builder
	for _, e := range examples(t, "api.md") {
		// One line for each command.
		scripts.WriteString(strings.ReplaceAll(e.script, "\\\n", " "))
	}
	for _, operation := range document.Operations {
		// For example, $SHOP/v1/orders/$ORDER is a call of /v1/orders/{id}.
		call := regexp.MustCompile(regexp.QuoteMeta("$SHOP") +
			regexp.MustCompile(`\\\{[^}]*\\\}`).ReplaceAllString(regexp.QuoteMeta(operation.Path), `[^/ ?"]+`) + `(\?[^ "]*)?("|\s|$)`)
		found := false
		for line := range strings.SplitSeq(scripts.String(), "\n") {
			found = found || call.MatchString(line) && methodOf(line) == operation.Method
		}
		if !found {
			t.Errorf("api.md has no example of %s %s", operation.Method, operation.Path)
		}
	}
}

// methodOf returns the method of a curl command.
func methodOf(line string) string {
	if explicit := regexp.MustCompile(`-X ([A-Z]+)`).FindStringSubmatch(line); explicit != nil {
		return explicit[1]
	}
	if strings.Contains(line, " -d ") {
		return "POST"
	}
	return "GET"
}

// startUp runs `make up` in a new folder, which it returns.
func startUp(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api", "loadtest"} {
		if err := os.Symlink(sandboxtest.Build(t, name), filepath.Join(folder, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	up, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
		Name: "loadtest up", Argv: []string{filepath.Join(folder, "bin", "loadtest"), "up"}, Dir: folder,
		Ready: func(context.Context) error {
			_, err := os.Stat(filepath.Join(folder, "out", "sandbox.json"))
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := up.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// shell runs scripts in sequence, and keeps their variables.
type shell struct {
	folder, variables string
}

func startShell(t *testing.T, folder string) *shell {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("curl is not installed: run `apt-get install curl`")
	}
	return &shell{folder: folder, variables: filepath.Join(folder, "variables")}
}

func (s *shell) run(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const around = "set -a; [ ! -e %[1]s ] || . %[1]s\n%[2]s\ndeclare -p ${!FLASHSALE_*} SHOP ADMIN ALICE BOB ORDER OTHER 2>/dev/null >%[1]s; true"
	cmd := exec.CommandContext(ctx, "bash", "-c", fmt.Sprintf(around, s.variables, script))
	cmd.Dir = s.folder
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s\n%v: %s", script, err, stderr.Bytes())
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

// check runs an example until its output is that of the page. The repetition cannot
// hide an error: a repeated order has Idempotent-Replayed.
func (s *shell) check(t *testing.T, e example) {
	t.Helper()
	end := time.Now().Add(settle)
	for {
		got := s.run(t, e.script)
		var difference string
		switch {
		case e.kind == "":
			if got != "" {
				difference = "want no output, got:\n" + got
			}
		case strings.HasPrefix(e.kind, "http"):
			difference = cmp.Diff(parse(t, e.want, e.kind == "http like"), parse(t, got, e.kind == "http like"))
		default:
			for line := range strings.SplitSeq(strings.TrimSpace(e.want), "\n") {
				if !strings.Contains(stable(got), stable(line)) {
					difference += "lacks " + line + "\n"
				}
			}
		}
		if difference == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s\n-page +program: %s\n%s", e.script, difference, got)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// answer is the compared part of an HTTP answer.
type answer struct {
	Status  string
	Headers map[string]string
	Body    any
}

// shownHeaders are the headers that the page must show if they are present.
var shownHeaders = []string{"location", "etag", "idempotent-replayed", "warning", "retry-after", "allow", "www-authenticate"}

func parse(t *testing.T, text string, typesOnly bool) answer {
	t.Helper()
	head, body, _ := strings.Cut(stable(text), "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	a := answer{Status: lines[0], Headers: map[string]string{}}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if name = strings.ToLower(name); slices.Contains(shownHeaders, name) {
			a.Headers[name] = value
		}
	}
	if strings.TrimSpace(body) != "" {
		if err := json.Unmarshal([]byte(body), &a.Body); err != nil {
			t.Fatalf("%s\nis not JSON: %v", body, err)
		}
	}
	if typesOnly {
		a.Body = types(a.Body)
	}
	return a
}

var changing = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"`), `"TIME"`},
	{regexp.MustCompile(`retry: \d+`), "retry: N"},
}

// stable replaces the parts of a text that change with each run: ids and times.
func stable(text string) string {
	for _, c := range changing {
		text = c.from.ReplaceAllString(text, c.to)
	}
	return text
}

// types replaces the values of a JSON value with their types.
func types(value any) any {
	switch v := value.(type) {
	case map[string]any:
		named := maps.Clone(v)
		for name, inner := range v {
			named[name] = types(inner)
		}
		return named
	case []any:
		return "a list"
	case nil:
		return nil
	}
	return fmt.Sprintf("%T", value)
}
