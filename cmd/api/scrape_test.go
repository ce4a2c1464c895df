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
)

// scrapeInterval is the longest that the rules allow: an expression that has
// enough samples with it has enough with a shorter one.
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

// String writes the series as rules and exporters do, with its labels in order.
func (s series) String() string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(s.labels)) {
		pairs = append(pairs, name+`="`+s.labels[name]+`"`)
	}
	return s.name + "{" + strings.Join(pairs, ", ") + "}"
}

// families are what the replica answers to a scrape, by their names.
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

// total is the sum of a family's series; of a histogram's, how often it observed.
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

// await scrapes until done says so.
func (c *client) await(what string, done func(map[string]*family) bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if done(c.families()) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("replica %s: %s did not come to be", c.Name, what)
		}
	}
}

// history is what Prometheus would remember of its scrapes: the values of each
// series, one for each scrape, in the notation of promtool.
type history map[string][]string

// scrape adds what the replica answers now, as the instance of its name. The scrape
// is the i-th, from 0.
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
		h[name] = append(h[name], "_") // not there yet
	}
	text := strconv.FormatFloat(value, 'f', -1, 64)
	if math.IsInf(value, 1) {
		text = "+Inf"
	}
	h[name] = append(h[name], text)
}

// input is the history as input_series of a promtool test.
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
