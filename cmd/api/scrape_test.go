package main

import (
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
)

// scrapeInterval is the longest that the rules support: a shorter one yields more
// samples.
const scrapeInterval = 15 * time.Second

// family is one metric of a scrape.
type family struct {
	kind    string // counter, gauge or histogram
	samples []sample
}

// sample is one line of a scrape. Its series is the text before the value.
type sample struct {
	series
	text  string
	value float64
}

// series is a name with its labels.
type series struct {
	name   string
	labels map[string]string
}

var labelPair = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)

// parseSeries reads a series such as up{job="flashsale"}. Values stay escaped.
func parseSeries(text string) series {
	name, rest, _ := strings.Cut(text, "{")
	s := series{strings.TrimSpace(name), map[string]string{}}
	for _, pair := range labelPair.FindAllStringSubmatch(rest, -1) {
		s.labels[pair[1]] = pair[2]
	}
	return s
}

// String returns the series as in rules, with its labels sorted.
func (s series) String() string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(s.labels)) {
		pairs = append(pairs, name+`="`+s.labels[name]+`"`)
	}
	return s.name + "{" + strings.Join(pairs, ", ") + "}"
}

// families scrapes the replica, and returns its metrics by name.
func (c *client) families() map[string]*family {
	c.t.Helper()
	status, text, err := c.call("GET", "/metrics", "", "", "")
	if err != nil || status != http.StatusOK {
		c.t.Fatalf("GET /metrics: %d, %v", status, err)
	}
	families := map[string]*family{}
	var current *family
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if about, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(about, " ")
			current = &family{kind: kind}
			families[name] = current
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil || current == nil {
			c.t.Fatalf("GET /metrics: %q: %v", line, err)
		}
		current.samples = append(current.samples, sample{parseSeries(line[:at]), line[:at], value})
	}
	return families
}

// total is the sum of a family's series, or the number of a histogram's observations.
func total(f *family) (sum float64) {
	if f == nil {
		return 0
	}
	for _, s := range f.samples {
		if f.kind != "histogram" || strings.HasSuffix(s.name, "_count") {
			sum += s.value
		}
	}
	return sum
}

// await scrapes until done returns true.
func (c *client) await(what string, done func(map[string]*family) bool) {
	c.t.Helper()
	sandboxtest.Eventually(c.t, "replica "+c.Name+": "+what, func() bool { return done(c.families()) })
}

// history has the values of each series, one for each scrape, in promtool's notation.
type history map[string][]string

// scrape adds the replica's current values, as scrape i, counted from 0. The label
// instance is the replica's name.
func (h history) scrape(c *client, i int) {
	c.t.Helper()
	target := map[string]string{"job": "flashsale", "instance": c.Name}
	h.add(series{"up", target}, i, 1)
	for _, f := range c.families() {
		for _, s := range f.samples {
			maps.Copy(s.labels, target)
			h.add(s.series, i, s.value)
		}
	}
}

func (h history) add(s series, i int, value float64) {
	name := s.String()
	for len(h[name]) < i {
		h[name] = append(h[name], "_") // the series did not exist yet
	}
	text := strconv.FormatFloat(value, 'f', -1, 64)
	if math.IsInf(value, 1) {
		text = "+Inf"
	}
	h[name] = append(h[name], text)
}

// input returns the history as the input_series of a promtool test.
func (h history) input() (all []map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		all = append(all, map[string]string{"series": name, "values": strings.Join(h[name], " ")})
	}
	return all
}

// promtool runs Prometheus' own tests of rules. The file's text is JSON, which is YAML.
func promtool(t *testing.T, file map[string]any) {
	t.Helper()
	text, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "../../scripts/promtool", "test", "rules", path)
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}
