package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The page on security names a test for each claim, and has each of OWASP's ten risks.
// All of these tests exist.
func TestThreatsHaveTestsThatExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 20 {
		t.Errorf("the page names %d tests, want at least 20", len(named))
	}
	for n := 1; n <= 10; n++ {
		if risk := fmt.Sprintf("\n| API%d | ", n); strings.Count(string(page), risk) != 1 {
			t.Errorf("API%d of OWASP's ten is in %d rows, want 1", n, strings.Count(string(page), risk))
		}
	}
	var code strings.Builder
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		code.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !strings.Contains(code.String(), "\nfunc "+name[1]+"(") {
			t.Errorf("test %s does not exist", name[1])
		}
	}
}
