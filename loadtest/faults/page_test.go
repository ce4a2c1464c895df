package faults

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"flashsale/loadtest/history"
	"flashsale/loadtest/proof"
)

// madeUp is a run of a scenario at 500 orders a second: nothing is sold for a while after
// each fault starts.
func madeUp(s Scenario, run int, lasts time.Duration, faults []Span, noSaleMS float64) Result {
	rng := rand.New(rand.NewPCG(uint64(run), 1))
	steps := int(lasts / bucket)
	t := &Timeline{BucketMS: int(bucket.Milliseconds()), Answers: map[string][]int{}, Faults: faults}
	for _, kind := range []string{kindSold, kindRefused, kindUnknown, kindMixed} {
		t.Answers[kind] = make([]int, steps)
	}
	for i := range steps {
		t.Answers[kindSold][i], t.Answers[kindMixed][i] = 47+rng.IntN(6), 8+rng.IntN(4)
	}
	for _, f := range faults {
		for i := int(f.FromMS) / t.BucketMS; float64(i*t.BucketMS) < f.FromMS+noSaleMS; i++ {
			t.Answers[kindSold][i], t.Answers[kindRefused][i] = 0, rng.IntN(20)
		}
		t.Answers[kindUnknown][int(f.FromMS)/t.BucketMS] = 20
	}
	r := Result{
		Name: s.Name, Injected: s.Injects, Run: run, Seed: uint64(run) + 100, Database: "MariaDB 11.8", HealedInMS: 310, BoundMS: 4500, NoSaleMS: noSaleMS, WaitMS: noSaleMS + 20,
		Reasons: []proof.Reason{{Status: 503, Slug: "unavailable", Count: 1234}, {Slug: "connection reset", Count: 20}},
		Mixed:   history.Report{Calls: 2900, SKUs: 24}, Violations: []string{}, OK: true, Timeline: t,
	}
	for _, n := range t.Answers[kindSold] {
		r.Sold += n
	}
	return r
}

// example has several runs of one scenario, one that broke, and chaos.
func example() *Figures {
	f := &Figures{
		Command: "bin/loadtest faults --runs 3 --lock-ttl 2s --rate 500 --seed 7 --scenarios seller-killed,mysql-killed,chaos --database mariadb",
		Date:    "2026-01-02", Machine: "2 cores of a made-up CPU, all servers on the loopback", Network: "network namespaces",
		Mutants: []MutantResult{
			{Name: "no-fence", About: "the write does not compare the token", Scenario: "seller-stopped", Violation: "hot-1: fence: fell from 9 to 7", Runs: 1},
		},
	}
	list, err := Find([]string{"seller-killed", "mysql-killed", "chaos"})
	if err != nil {
		panic(err)
	}
	for run := 1; run <= 3; run++ {
		f.Scenarios = append(f.Scenarios, madeUp(list[0], run, 30*time.Second, []Span{{Name: list[0].Name, FromMS: 2345, ToMS: 4800, SellsMS: 5110}}, 260+20*float64(run)))
	}
	f.Scenarios = append(f.Scenarios, madeUp(list[1], 1, 16*time.Second, []Span{{Name: list[1].Name, FromMS: 2200, ToMS: 5600, SellsMS: 6400}}, 4100))
	rng := rand.New(rand.NewPCG(3, 3))
	all := All()
	var faults []Span
	for i := range 40 {
		from, lasted := 1000+14_800*float64(i)+2000*rng.Float64(), 500+9000*rng.Float64()
		faults = append(faults, Span{Name: all[rng.IntN(len(all)-1)].Name, FromMS: from, ToMS: from + lasted, SellsMS: from + lasted + 900*rng.Float64()})
	}
	f.Scenarios = append(f.Scenarios, madeUp(list[2], 1, 10*time.Minute, faults, 300))
	f.Settle()
	return f
}

func written(t *testing.T, f *Figures) string {
	t.Helper()
	var page bytes.Buffer
	if err := Page(&page, f); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func TestPageShowsScenariosAndLoadsNoOtherFile(t *testing.T) {
	page := written(t, example())
	for _, pattern := range []string{`<link`, `\bsrc=`, `\bhref="[^#]`, `@import`, `url\(`, `\bfetch\(`, `XMLHttpRequest`, `ZgotmplZ`, `<[^>]* on[a-z]+=`} {
		if found := regexp.MustCompile(pattern).FindString(page); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	for _, want := range []string{
		`<p class="badge good">3 scenarios, all ok; 1 mutant, all caught</p>`,
		`<a href="#seller-killed">`, `<section id="seller-killed">`, `<section id="chaos">`, "by kind, in run 3 of 3",
		"median 0.300 s, maximum 0.320 s (goal for the median of 3 or more runs: at most 0.3 s)",
		"Answers in run 3: 14,652 sold, 1,234 x 503 unavailable, 20 x connection reset", "2,900 mixed calls on 24 SKUs", "<summary>40 faults</summary>",
		"<strong>seller-stopped</strong>: hot-1: fence: fell from 9 to 7",
		"<span>mariadb</span> <span>--scenarios</span> <span>seller-killed</span> <span>--seed</span> <span>103</span></code>",
		"MariaDB 11.8", "network namespaces", "a made-up CPU", "2026-01-02", `"step_s":0.1`, `"no_sale":[23,27]`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
}

// TestPageShowsWhatBroke also checks that no value can end a script or start an element.
func TestPageShowsWhatBroke(t *testing.T) {
	const evil = `</script><img src=x onerror="alert(1)">`
	f := example()
	broken := &f.Scenarios[1] // the second of three runs
	broken.Violations, broken.OK, broken.Injected, broken.Notes = []string{"lost order " + evil}, false, "all of it "+evil, []string{"see " + evil}
	broken.Timeline.Answers["other: 500 "+evil] = make([]int, len(broken.Timeline.Answers[kindSold]))
	f.Mutants = append(f.Mutants, MutantResult{Name: "evil " + evil, About: "about " + evil, Runs: 3})
	f.Settle()
	page := written(t, f)
	if strings.Contains(page, "<img") || strings.Count(page, "</script") != 3 {
		t.Error("a value of the figures is not escaped")
	}
	const escaped = "&lt;/script&gt;&lt;img src=x onerror=&#34;alert(1)&#34;&gt;"
	for _, want := range []string{
		`<p class="badge bad">1 of 3 scenarios broke an invariant: seller-killed; 1 of 2 mutants survived: evil `,
		"Run 2, seed 102: lost order " + escaped, "all of it " + escaped, "see " + escaped, "about " + escaped,
		`<span class="verdict lost">VIOLATIONS: 1</span>`, `<strong class="verdict lost">SURVIVED</strong>`,
		"by kind, in run 2 of 3", "<span>--seed</span> <span>102</span>", `"other: 500 \u003c/script`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
}

func TestConclusionNamesWhatMissedItsGoal(t *testing.T) {
	f := example()
	for i := range f.Scenarios {
		f.Scenarios[i].NoSaleMS = 301
	}
	f.Settle()
	if want := "1 of 3 scenarios missed the goal: seller-killed; 1 mutant, all caught"; f.OK || f.conclusion() != want {
		t.Errorf("got %v, %q; want %q", f.OK, f.conclusion(), want)
	}
	if got, want := new(Figures).conclusion(), "no scenario was run"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPageOffersItsFigures(t *testing.T) {
	f := example()
	found := regexp.MustCompile(`(?s)<a download="faults.json">.*<script type="application/json">(.*?)</script>`).FindStringSubmatch(written(t, f))
	if found == nil {
		t.Fatal("the page has no data")
	}
	var got Figures
	if err := json.Unmarshal([]byte(found[1]), &got); err != nil || len(got.Scenarios) != len(f.Scenarios) || got.Scenarios[0].Sold != f.Scenarios[0].Sold {
		t.Errorf("got %+v, %v", got.Scenarios, err)
	}
}

func TestRunWithoutATimelineHasNoChart(t *testing.T) {
	f := example()
	f.Scenarios = f.Scenarios[:1]
	f.Scenarios[0].Timeline = nil
	if strings.Contains(written(t, f), `data-timeline="`) {
		t.Error("the page has a place for a chart")
	}
}

func TestLongestTimeWithoutASaleIsFoundInTheTimeline(t *testing.T) {
	for name, tt := range map[string]struct {
		sold, refused []int
		from          int
		want          [2]int
	}{
		"none":                            {[]int{1, 1, 1}, nil, 0, [2]int{0, 0}},
		"the longest":                     {[]int{1, 0, 1, 0, 0, 1}, nil, 0, [2]int{3, 5}},
		"only from the fault on":          {[]int{0, 0, 0, 1, 0, 1}, nil, 2, [2]int{2, 3}},
		"until the last answer":           {[]int{1, 0, 0, 0, 0, 0}, []int{0, 0, 0, 1, 0, 0}, 0, [2]int{1, 4}},
		"nothing counts after the answer": {[]int{1, 0, 0}, nil, 0, [2]int{0, 0}},
		"a fault after all answers":       {[]int{1, 0, 0}, nil, 9, [2]int{0, 0}},
	} {
		if got := longestZeros([]pageLayer{{Counts: tt.sold}, {Counts: tt.refused}}, tt.from); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

func TestCommandRunsOneScenarioAgain(t *testing.T) {
	r := &Result{Name: "key-deleted", Seed: 12}
	for command, want := range map[string]string{
		"x faults --runs 3 --rate 5 --seed 9 --short":          "x faults --rate 5 --scenarios key-deleted --seed 12",
		"x faults --seed 9 --scenarios a,b --database mysql":   "x faults --database mysql --scenarios key-deleted --seed 12",
		"x faults --lock-ttl 2s --runs 1 --seed 1 --chaos 10m": "x faults --lock-ttl 2s --chaos 10m --scenarios key-deleted --seed 12",
	} {
		if got := strings.Join(again(command, r), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSaveWritesFiguresAndPage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	if err := Save(dir, example()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, ResultFile))
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		Scenarios []map[string]any `json:"scenarios"`
		OK        bool             `json:"ok"`
	}
	if err := json.Unmarshal(data, &saved); err != nil || !saved.OK || len(saved.Scenarios) != 5 {
		t.Fatalf("got %d scenarios, ok %v, %v", len(saved.Scenarios), saved.OK, err)
	}
	for _, field := range strings.Fields("name injected healed_in_ms violations ok") {
		if _, ok := saved.Scenarios[0][field]; !ok {
			t.Errorf("a scenario lacks %s", field)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, PageFile)); err != nil {
		t.Error(err)
	}
}
