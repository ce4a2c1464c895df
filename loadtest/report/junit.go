package report

import (
	"encoding/xml"
	"fmt"
	"time"

	"flashsale/loadtest/proof"
)

// The elements that all readers of JUnit's format know.
type (
	testSuites struct {
		XMLName xml.Name    `xml:"testsuites"`
		Suites  []testSuite `xml:"testsuite"`
	}
	testSuite struct {
		Name      string     `xml:"name,attr"`
		Tests     int        `xml:"tests,attr"`
		Failures  int        `xml:"failures,attr"`
		Errors    int        `xml:"errors,attr"`
		Skipped   int        `xml:"skipped,attr"`
		Time      string     `xml:"time,attr"`
		Timestamp string     `xml:"timestamp,attr"`
		Cases     []testCase `xml:"testcase"`
	}
	testCase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		Time    string   `xml:"time,attr"`
		Failure *failure `xml:"failure"`
		Error   *failure `xml:"error"`
	}
	failure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// SaveJUnit writes the proof as JUnit's XML: a suite for each run, with a case for its
// verdict and one for each threshold.
func SaveJUnit(file string, p *proof.Proof) error {
	return saveJUnit(file, suitesOf(p))
}

// SaveJUnitError writes a suite for a command that ended with an error, after those of the
// proof. p is nil if there is none.
func SaveJUnitError(file, command string, p *proof.Proof, ended error) error {
	all := suitesOf(p)
	name := "loadtest " + command
	all.Suites = append(all.Suites, testSuite{
		Name: name, Tests: 1, Errors: 1, Time: "0.000", Timestamp: stamp(time.Now()),
		Cases: []testCase{{
			Name: command + " ends without an error", Class: name, Time: "0.000",
			Error: &failure{Message: ended.Error(), Type: "error", Text: ended.Error()},
		}},
	})
	return saveJUnit(file, all)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05") }

func suitesOf(p *proof.Proof) (all testSuites) {
	if p == nil {
		return all
	}
	for i := range p.Runs {
		r := &p.Runs[i]
		suite := testSuite{
			Name: "loadtest " + r.Name(), Time: fmt.Sprintf("%.3f", r.DurationMS/1e3),
			Timestamp: stamp(r.Started),
		}
		add := func(name string, seconds time.Duration, ok bool, kind, why string) {
			c := testCase{Name: name, Class: suite.Name, Time: fmt.Sprintf("%.3f", seconds.Seconds())}
			if suite.Tests++; !ok {
				suite.Failures++
				c.Failure = &failure{Message: why, Type: kind, Text: why}
			}
			suite.Cases = append(suite.Cases, c)
		}
		took := time.Duration(r.DurationMS * float64(time.Millisecond))
		add("verdict is "+string(r.Expected), took, r.Verdict == r.Expected, string(r.Verdict), r.Sentence())
		for _, t := range r.Thresholds {
			add(t.Threshold, 0, t.OK, "threshold", t.String())
		}
		all.Suites = append(all.Suites, suite)
	}
	return all
}

func saveJUnit(file string, all testSuites) error {
	text, err := xml.MarshalIndent(all, "", "  ")
	if err == nil {
		err = Replace(file, append([]byte(xml.Header), append(text, '\n')...), 0o644)
	}
	if err != nil {
		return fmt.Errorf("--junit: save %s: %w", file, err)
	}
	return nil
}
