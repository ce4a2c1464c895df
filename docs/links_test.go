package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository's.
const root = ".."

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	unslug   = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	code     = regexp.MustCompile("`([^`\n]+)`")
	fenced   = regexp.MustCompile("(?ms)^```.*?^```")
	isPath   = regexp.MustCompile(`^[\w.*-]+(/[\w.*-]+)*/?$`)
	goFile   = regexp.MustCompile(`\.go$`)
	drawn    = regexp.MustCompile(`"([^"]+)"`)
	anyBreak = regexp.MustCompile(`\\n`)
)

// A page that names a file or a section that is not there sends its reader astray.
func TestEveryLinkLeadsSomewhere(t *testing.T) {
	for _, page := range pages(t) {
		text := fenced.ReplaceAllString(read(t, page), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			file, anchor, _ := strings.Cut(match[1], "#")
			// Links of pages that the service shows start at its own root.
			if strings.Contains(file, "://") || strings.HasPrefix(file, "/") {
				continue
			}
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: there is no such file", page, match[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s links to %s: there is no such section", page, match[1])
			}
		}
	}
}

// ARCHITECTURE.md names files relative to the root or to internal, or to the
// last folder that the line named.
func TestEveryFileOfTheArchitectureExists(t *testing.T) {
	text := fenced.ReplaceAllString(read(t, filepath.Join(root, "ARCHITECTURE.md")), "")
	for line := range strings.Lines(text) {
		folders := []string{root, filepath.Join(root, "internal"), filepath.Join(root, "loadtest")}
		for _, match := range code.FindAllStringSubmatch(line, -1) {
			name := match[1]
			if !isPath.MatchString(name) || !strings.Contains(name, "/") && !goFile.MatchString(name) {
				continue
			}
			found := ""
			for _, folder := range folders {
				if files, _ := filepath.Glob(filepath.Join(folder, name)); len(files) > 0 {
					found = files[0]
				}
			}
			if found == "" {
				t.Errorf("ARCHITECTURE.md names %s, which does not exist: %s", name, line)
				continue
			}
			if info, err := os.Stat(found); err == nil && !info.IsDir() {
				found = filepath.Dir(found)
			}
			folders = append(folders, found)
		}
	}
}

func TestPictureShowsItsText(t *testing.T) {
	sources, err := filepath.Glob("images/*.d2")
	if err != nil || len(sources) == 0 {
		t.Fatal("found no pictures", err)
	}
	for _, source := range sources {
		name := strings.TrimSuffix(source, ".d2") + ".svg"
		picture := read(t, name)
		for _, match := range drawn.FindAllStringSubmatch(read(t, source), -1) {
			for _, line := range anyBreak.Split(match[1], -1) {
				if !strings.Contains(picture, strings.ReplaceAll(line, "'", "&#39;")) && !strings.Contains(picture, line) {
					t.Errorf("%s lacks %q: run make pictures", name, line)
				}
			}
		}
	}
}

func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && slices.Contains([]string{".git", "bin", "dist", "out"}, entry.Name()) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// anchors are the sections of a page, as GitHub names them.
func anchors(page string) []string {
	var found []string
	for _, match := range heading.FindAllStringSubmatch(page, -1) {
		found = append(found, strings.ReplaceAll(unslug.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-"))
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
