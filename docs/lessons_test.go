package docs_test

import (
	"go/format"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	question = regexp.MustCompile(`(?m)^\d+\. `)
	// An answer is folded. GitHub renders what is inside as Markdown because of the empty lines.
	folded    = regexp.MustCompile(`(?s)\?.*\n\n   <details><summary>Answer</summary>\n\n(   \S.*?)\n\n   </details>\n$`)
	codeBlock = regexp.MustCompile("(?ms)^([^\n]+:)\n\n```(go|sql)\n(.*?)```\n")
	sqlNote   = regexp.MustCompile(`(?m)\s*-- .*$`)
	sentence  = regexp.MustCompile(`[.?!](\s|$)`)
)

func lessons(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("lessons/[a-z]*.md")
	if err != nil || len(found) == 0 {
		t.Fatal("found no lessons", err)
	}
	return found
}

// Each answer is short: a class reads it after its own discussion.
func TestEveryQuestionOfALessonHasAnAnswer(t *testing.T) {
	t.Parallel()
	const longest = 4 // sentences
	for _, page := range lessons(t) {
		_, questions, _ := strings.Cut(read(t, page), "\n## Questions\n\n")
		starts := question.FindAllStringIndex(questions, -1)
		for i, start := range starts {
			end := len(questions)
			if i+1 < len(starts) {
				end = starts[i+1][0] - 1 // the empty line between two questions
			}
			item := questions[start[0]:end]
			found := folded.FindStringSubmatch(item)
			if found == nil {
				t.Errorf("%s: question %d has no folded answer:\n%s", page, i+1, item)
			} else if n := len(sentence.FindAllString(found[1], -1)); n > longest {
				t.Errorf("%s: the answer to question %d has %d sentences, want at most %d", page, i+1, n, longest)
			}
		}
		if n := strings.Count(questions, "<details>"); n != len(starts) {
			t.Errorf("%s has %d questions and %d folded answers", page, len(starts), n)
		}
	}
}

// Code that names its source is there, line by line; a line "..." is a gap. Other code in Go
// is at least formatted, which it must be parsed for.
func TestEveryLessonShowsTheWrongCodeAndTheRight(t *testing.T) {
	t.Parallel()
	for _, page := range lessons(t) {
		_, code, _ := strings.Cut(read(t, page), "\n## In code\n\n")
		code, _, _ = strings.Cut(code, "\n## Run it\n")
		seen := map[string]bool{}
		for _, block := range codeBlock.FindAllStringSubmatch(code, -1) {
			caption, language, text := block[1], block[2], block[3]
			first, _, _ := strings.Cut(strings.TrimSuffix(caption, ":"), " ")
			seen[strings.Trim(first, ",:")] = true
			source := link.FindStringSubmatch(caption)
			switch {
			case source != nil && filepath.Ext(source[1]) == ".go":
				want := squeezed(read(t, filepath.Join(filepath.Dir(page), source[1])))
				for _, part := range parts(language, text) {
					if !strings.Contains(want, squeezed(part)) {
						t.Errorf("%s: %s does not have\n%s", page, source[1], part)
					}
				}
			case language == "go":
				if formatted, err := format.Source([]byte(text)); err != nil || string(formatted) != text {
					t.Errorf("%s: %s is not formatted (%v):\n%s", page, caption, err, text)
				}
			}
		}
		if !seen["Wrong"] || !seen["Right"] {
			t.Errorf("%s does not show the wrong code and the right: %v", page, seen)
		}
	}
}

// parts are the pieces of a block that must be in its source as they are: statements of
// SQL without their notes, and Go between gaps.
func parts(language, text string) []string {
	if language == "sql" {
		return strings.Split(sqlNote.ReplaceAllString("\n"+text, ""), ";")
	}
	return strings.Split(text, "...\n")
}

// squeezed has one space for each piece of white space.
func squeezed(text string) string { return strings.Join(strings.Fields(text), " ") }
