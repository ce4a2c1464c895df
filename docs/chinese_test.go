package docs_test

import (
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// README.zh-CN.md is README.md in Chinese: the same commands, output, links and sections.
func TestChineseReadmeHasTheSameContent(t *testing.T) {
	t.Parallel()
	english, chinese := read(t, filepath.Join(root, "README.md")), read(t, filepath.Join(root, "README.zh-CN.md"))
	for what, part := range map[string]*regexp.Regexp{
		"a block of code": fenced,
		"the target of a link, in the order of the page": regexp.MustCompile(`\]\((?:[^)]*\.(?:svg|png)|docs/[^)]*|(?:ARCHITECTURE|CHANGELOG|CONTRIBUTING|SECURITY)\.md[^)]*|LICENSE|deploy/[^)]*)\)`),
		"a level of a heading":                           regexp.MustCompile(`(?m)^#+ `),
		"the first cell of a row":                        regexp.MustCompile("(?m)^\\| `[a-z-]+` \\|"),
	} {
		if diff := cmp.Diff(part.FindAllString(english, -1), part.FindAllString(chinese, -1)); diff != "" {
			t.Errorf("README.zh-CN.md differs in %s (-English +Chinese):\n%s", what, diff)
		}
	}
}
