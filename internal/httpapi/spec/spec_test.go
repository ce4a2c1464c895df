package spec_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

var (
	// generate matches a go:generate line of oapi-codegen: its module file, its
	// configuration, and the document.
	generate = regexp.MustCompile(`(?m)^//go:generate go tool (-modfile=\S+) oapi-codegen -config (\S+) (\S+)$`)
	output   = regexp.MustCompile(`(?m)^output: (\S+)$`)
)

func TestGeneratedCodeIsCurrent(t *testing.T) {
	tier.OnlyTestAll(t, "oapi-codegen")
	for dir, source := range map[string]string{".": "spec.go", filepath.FromSlash("../../../client/wire"): "wire.go"} {
		line := generate.FindStringSubmatch(read(t, filepath.Join(dir, source)))
		if line == nil {
			t.Fatalf("%s has no go:generate line of oapi-codegen", source)
		}
		config := read(t, filepath.Join(dir, line[2]))
		generated := output.FindStringSubmatch(config)
		if generated == nil {
			t.Fatalf("%s has no output", line[2])
		}
		temporary := t.TempDir()
		fresh, freshConfig := filepath.Join(temporary, generated[1]), filepath.Join(temporary, "cfg.yaml")
		if err := os.WriteFile(freshConfig, []byte(output.ReplaceAllString(config, "output: "+fresh)), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "go", "tool", line[1], "oapi-codegen", "-config", freshConfig, line[3])
		command.Dir = dir
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("oapi-codegen: %v\n%s", err, out)
		}
		if read(t, filepath.Join(dir, generated[1])) != read(t, fresh) {
			t.Errorf("%s is outdated: run go generate in %s", generated[1], dir)
		}
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
