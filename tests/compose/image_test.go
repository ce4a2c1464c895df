package compose_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// stages reads the Dockerfile as BuildKit does.
func stages(t *testing.T) (all []instructions.Stage, arguments []instructions.ArgCommand) {
	t.Helper()
	file, err := os.Open(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tree, err := parser.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range tree.Warnings {
		t.Errorf("Dockerfile: %s", warning.Short)
	}
	all, arguments, err = instructions.Parse(tree.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all, arguments
}

// find is the only command of its kind in a stage.
func find[C instructions.Command](t *testing.T, stage instructions.Stage) C {
	t.Helper()
	var found []C
	for _, command := range stage.Commands {
		if c, ok := command.(C); ok {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("stage %s has %d of %T, want 1", stage.Name, len(found), *new(C))
	}
	return found[0]
}

func TestImagesAreOneProgramThatIsNotRoot(t *testing.T) {
	t.Parallel()
	all, _ := stages(t)
	for _, target := range []string{"api", "loadtest"} {
		i := slices.IndexFunc(all, func(s instructions.Stage) bool { return s.Name == target })
		if i < 0 {
			t.Errorf("there is no target %s", target)
			continue
		}
		stage := all[i]
		if stage.BaseName != "scratch" {
			t.Errorf("%s is built on %s", target, stage.BaseName)
		}
		if user := find[*instructions.UserCommand](t, stage).User; user != "65532:65532" {
			t.Errorf("%s runs as %s", target, user)
		}
		// Without a shell both must be lists.
		entry := find[*instructions.EntrypointCommand](t, stage)
		if entry.PrependShell || !slices.Equal(entry.CmdLine, []string{"/" + target}) || find[*instructions.CmdCommand](t, stage).PrependShell {
			t.Errorf("%s starts with %v by a shell, which it does not have", target, entry.CmdLine)
		}
		for _, command := range stage.Commands {
			if _, runs := command.(*instructions.RunCommand); runs {
				t.Errorf("%s runs something while it is built, in an empty image", target)
			}
			if c, copies := command.(*instructions.CopyCommand); copies && c.From != "build" {
				t.Errorf("%s takes files from %q", target, c.From)
			}
		}
	}
	if last := all[len(all)-1].Name; last != "api" {
		t.Errorf("a build without a target makes %s", last)
	}
}

// TestImageAsksTheReplicaItself: docker and compose ask in the same way.
func TestImageAsksTheReplicaItself(t *testing.T) {
	t.Parallel()
	all, _ := stages(t)
	check := find[*instructions.HealthCheckCommand](t, all[len(all)-1]).Health
	if want := []string(mustLoad(t).Services["api"].HealthCheck.Test); !slices.Equal(check.Test, want) {
		t.Errorf("the image's health check is %v, compose's %v", check.Test, want)
	}
}

func TestImageIsBuiltByTheRepositorysGo(t *testing.T) {
	t.Parallel()
	all, arguments := stages(t)
	i := slices.IndexFunc(arguments, func(a instructions.ArgCommand) bool { return a.Args[0].Key == "GO_IMAGE" })
	if i < 0 || arguments[i].Args[0].Value == nil {
		t.Fatal("there is no GO_IMAGE")
	}
	image := *arguments[i].Args[0].Value
	if !exact.MatchString(image) {
		t.Errorf("the programs are built on %s: not one exact release", image)
	}
	version := strings.TrimPrefix(strings.SplitN(image, "-", 2)[0], "golang:")
	least := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "go.mod"))[1]
	// sort -V's order, for versions of the same number of parts.
	if strings.Count(version, ".") != strings.Count(least, ".") || version < least {
		t.Errorf("the programs are built by Go %s, go.mod needs %s", version, least)
	}
	if all[0].BaseName != "${GO_IMAGE}" {
		t.Errorf("the programs are built on %s", all[0].BaseName)
	}
}

// TestTheSameTreeMakesTheSamePrograms runs what the Dockerfile runs, in two copies
// of what Docker would be handed: without what .dockerignore names.
func TestTheSameTreeMakesTheSamePrograms(t *testing.T) {
	t.Parallel()
	var hashes [2]map[string]string
	for i := range hashes {
		hashes[i] = build(t)
	}
	for _, name := range []string{"api/api", "loadtest/loadtest"} {
		if hashes[0][name] == "" || hashes[0][name] != hashes[1][name] {
			t.Errorf("%s: %s in one folder, %s in another", name, hashes[0][name], hashes[1][name])
		}
	}
}

// build is the hashes, by name, of what the build leaves for the images.
func build(t *testing.T) map[string]string {
	t.Helper()
	all, _ := stages(t)
	tree, image := contextCopy(t), filepath.Join(t.TempDir(), "image")
	certificates := filepath.Join(t.TempDir(), "ca-certificates.crt")
	if err := os.WriteFile(certificates, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	script := ""
	env := append(os.Environ(), "TARGETOS=", "TARGETARCH=", "VERSION=v0.0.0-test", "SOURCE_DATE_EPOCH=1700000000")
	for _, command := range all[0].Commands {
		switch c := command.(type) {
		case *instructions.RunCommand:
			script = strings.Join(c.CmdLine, " ") // the last one
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				// This machine may have another Go, and fetch the one that it needs.
				if pair.Key != "GOTOOLCHAIN" {
					env = append(env, pair.Key+"="+pair.Value)
				}
			}
		}
	}
	script = strings.ReplaceAll(script, "/image", image)
	script = strings.ReplaceAll(script, "/etc/ssl/certs/ca-certificates.crt", certificates)
	run := exec.CommandContext(t.Context(), "sh", "-c", script)
	run.Dir, run.Env = tree, env
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	hashes := map[string]string{}
	err := filepath.WalkDir(image, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if got := info.ModTime().Unix(); got != 1700000000 {
			t.Errorf("%s has the time %d: each build would make another layer", path, got)
		}
		if entry.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(image, path)
		hashes[name] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hashes
}

// contextCopy is a copy of what Docker would be handed as the build's context.
func contextCopy(t *testing.T) string {
	t.Helper()
	patterns, err := ignorefile.ReadAll(strings.NewReader(read(t, ".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		// .git holds nothing that is not ignored, and is large.
		skip, err := ignored.MatchesOrParentMatches(name)
		switch {
		case err != nil:
			return err
		case skip && entry.IsDir():
			return fs.SkipDir
		case skip:
			return nil
		case entry.IsDir():
			return os.Mkdir(filepath.Join(folder, name), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(folder, name), text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return folder
}
