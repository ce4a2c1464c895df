// Package doctor examines the servers that the service rests on, and says by name
// what is wrong with each and what to do. It changes nothing on them. The start of a
// replica and `api doctor` ask the same questions here; package backend asks those
// about lock servers.
package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity says what a Finding means for the service.
type Severity string

// The severities.
const (
	// Fine needs nothing to be done.
	Fine Severity = "fine"
	// Warning is what the service can run with, at a cost or a risk.
	Warning Severity = "warning"
	// Fault keeps orders from being sold, or makes answers untrue: no replica starts.
	Fault Severity = "fault"
)

// Answers is the check of a server that does not answer: another try may succeed.
const Answers = "answers"

// Finding is what one check found on one server.
type Finding struct {
	Server   string   `json:"server"`
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`
	// Do says what to do. It is "" where there is nothing to do.
	Do string `json:"do,omitempty"`
}

func (f Finding) String() string {
	text := f.Check + ": " + f.Found
	if f.Do != "" {
		text += "; " + f.Do
	}
	return text
}

// Report has the findings of one server or several, in the order of the checks.
type Report []Finding

// Of is the report with the server's name in every finding.
func (r Report) Of(server string) Report {
	for i := range r {
		r[i].Server = cmp.Or(r[i].Server, server)
	}
	return r
}

// With returns the findings of one severity.
func (r Report) With(severity Severity) Report {
	return slices.DeleteFunc(slices.Clone(r), func(f Finding) bool { return f.Severity != severity })
}

// Err is one line with every fault, or nil.
func (r Report) Err() error {
	faults := r.With(Fault)
	if len(faults) == 0 {
		return nil
	}
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String()
	}
	if server := faults[0].Server; server != "" {
		lines[0] = server + ": " + lines[0]
	}
	return errors.New(strings.ReplaceAll(strings.Join(lines, "; "), "\n", " "))
}

// Fine adds what is as it should be.
func (r *Report) Fine(check, found string, args ...any) {
	*r = append(*r, Finding{Check: check, Severity: Fine, Found: fmt.Sprintf(found, args...)})
}

// Warn adds a warning.
func (r *Report) Warn(check, todo, found string, args ...any) {
	*r = append(*r, Finding{Check: check, Severity: Warning, Do: todo, Found: fmt.Sprintf(found, args...)})
}

// Fault adds a fault.
func (r *Report) Fault(check, todo, found string, args ...any) {
	*r = append(*r, Finding{Check: check, Severity: Fault, Do: todo, Found: fmt.Sprintf(found, args...)})
}
