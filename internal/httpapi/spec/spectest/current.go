// Package spectest is what tests hold against the HTTP contract: the code that
// is generated from it.
package spectest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	// generate is a go:generate line of oapi-codegen's: the file of its version,
	// its configuration, and the contract.
	generate = regexp.MustCompile(`(?m)^//go:generate go tool (-modfile=\S+) oapi-codegen -config (\S+) (\S+)$`)
	// output is where a configuration says that the code goes.
	output = regexp.MustCompile(`(?m)^output: (\S+)$`)
)

// Current checks that the generated file of the test's own folder is what the line
// for go generate in source, a file beside it, makes of the contract now.
func Current(t *testing.T, source string) {
	t.Helper()
	line := generate.FindStringSubmatch(read(t, source))
	if line == nil {
		t.Fatalf("%s has no go:generate line of oapi-codegen's", source)
	}
	version, config, contract := line[1], read(t, line[2]), line[3]
	to := output.FindStringSubmatch(config)
	if to == nil {
		t.Fatalf("%s has no output", line[2])
	}
	dir := t.TempDir()
	fresh, freshConfig := filepath.Join(dir, to[1]), filepath.Join(dir, "cfg.yaml")
	if err := os.WriteFile(freshConfig, []byte(output.ReplaceAllString(config, "output: "+fresh)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "tool", version, "oapi-codegen", "-config", freshConfig, contract).CombinedOutput(); err != nil {
		t.Fatalf("oapi-codegen: %v\n%s", err, out)
	}
	if read(t, to[1]) != read(t, fresh) {
		t.Errorf("%s is not what %s makes of the contract: run go generate here", to[1], source)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
