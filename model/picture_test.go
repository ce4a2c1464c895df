package model

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

var update = flag.Bool("update", false, "write the runs that break the model to docs/images, for make pictures")

// pictures are mutants with small bounds, so that the shortest run that breaks them is a
// picture: docs/images/takeover-NAME.svg.
var pictures = []struct {
	name, macros, want, caption string
}{
	{"no-claim", "-DNO_CLAIM -DNO_EXCLUSIVE -DUNITS=2 -DCALLS=1 -DSENDS=1 -DUNKNOWN=0", tokensNotFall,
		"Broken: tenure 1 writes\nafter tenure 2 has written"},
	{"claim-after", "-DCLAIM_AFTER -DCALLS=1 -DSENDS=1 -DUNKNOWN=0", oneWriter,
		"Broken: tenure 1 writes after\ntenure 2 has read the row.\nTenure 2 now has\na wrong count in memory"},
	{"write-only", "-DWRITE_ONLY -DNO_EXCLUSIVE -DCALLS=1 -DUNKNOWN=0", toldGetsNone,
		"Broken: buyer 1 was told\n'sold out' and gets an order"},
}

// TestPicturesShowTheModel checks that each picture's text is the run that Spin finds now.
// The test of package docs checks that the picture shows the text.
func TestPicturesShowTheModel(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	for _, p := range pictures {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := search{file: "takeover.pml", macros: strings.Fields(p.macros), shortest: true}
			got := diagram(t, p.macros, s.story(t, s.breaks(t, p.want)), p.caption)
			path := "../docs/images/takeover-" + p.name + ".d2"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			page, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(page), got); diff != "" {
				t.Errorf("%s is not the run that breaks the model (-page +model): run make pictures\n%s", path, diff)
			}
		})
	}
}

// diagram returns a story as a sequence diagram in the language of d2. The caption is
// shown at the write that breaks the property.
func diagram(t *testing.T, macros string, story []string, caption string) string {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `# The shortest run that breaks takeover.pml with
# %s
# Written by make pictures, which also draws it.
shape: sequence_diagram
`, macros)
	for _, actor := range []struct{ id, name string }{
		{"buyer0", "Buyer 1"}, {"buyer1", "Buyer 2"}, {"tenure1", "Tenure 1,\ntaken over"}, {"tenure2", "Tenure 2"}, {"mysql", "MySQL"},
	} {
		if strings.Contains(strings.Join(story, " "), actor.id) {
			fmt.Fprintf(&text, "%s: %q\n", actor.id, actor.name)
		}
	}
	for _, step := range story {
		who, what, _ := strings.Cut(step, ": ")
		fmt.Fprintf(&text, "%s: %q\n", who, inWords(t, what))
	}
	fmt.Fprintf(&text, "mysql.broken: %q {style.fill: \"#ffd6d6\"}\n(* -> *)[*].style.font-size: 18\n", caption)
	return text.String()
}

// words are what the steps of takeover.pml print, and what they mean. The model counts
// buyers from 0, and writes a set of buyers as the sum of 1 and 2.
var words = []struct {
	step *regexp.Regexp
	say  func(n []int) string
}{
	{regexp.MustCompile(`^order, call \d, link 1$`), func([]int) string { return "order" }},
	{regexp.MustCompile(`^order, call \d, link \d$`), func([]int) string { return "order, sent again" }},
	{regexp.MustCompile(`^claim, fence (\d)$`), func(n []int) string { return fmt.Sprintf("claims: the fence is %d", n[0]) }},
	{regexp.MustCompile(`^read, (\d) left, seq (\d)$`), func(n []int) string { return fmt.Sprintf("reads: %d left, seq %d", n[0], n[1]) }},
	{regexp.MustCompile(`^sell to buyers (\d), (\d) left, seq (\d), fence (\d)$`), func(n []int) string {
		return fmt.Sprintf("sells to %s: %d left, seq %d, fence %d", []string{"buyer 1", "buyer 2", "both"}[n[0]-1], n[1], n[2], n[3])
	}},
	{regexp.MustCompile(`^compare, seq (\d)$`), func(n []int) string { return fmt.Sprintf("compares: seq is still %d", n[0]) }},
	{regexp.MustCompile(`^cancel, (\d) left, seq (\d)$`), func(n []int) string { return fmt.Sprintf("order cancelled: %d left, seq %d", n[0], n[1]) }},
	{regexp.MustCompile(`^answer 1$`), func([]int) string { return "ordered" }},
	{regexp.MustCompile(`^answer 2$`), func([]int) string { return "sold out" }},
}

func inWords(t *testing.T, what string) string {
	t.Helper()
	for _, w := range words {
		if match := w.step.FindStringSubmatch(what); match != nil {
			var numbers []int
			for _, group := range match[1:] {
				n, _ := strconv.Atoi(group)
				numbers = append(numbers, n)
			}
			return w.say(numbers)
		}
	}
	t.Fatalf("no words for the step %q", what)
	return ""
}
