// Package doctor examines the servers that the service uses, and reports what is wrong
// with each and what to do about it. It changes nothing on them. A replica runs the
// same checks when it starts as `api doctor` does. Package backend has the checks of
// lock servers.
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
	// Fine needs no action.
	Fine Severity = "fine"
	// Warning is a cost or a risk. The service can run with it.
	Warning Severity = "warning"
	// Fault stops orders or makes answers wrong. No replica starts with it.
	Fault Severity = "fault"
)

// Answers is the check of a server that does not answer. A later try may succeed.
const Answers = "answers"

// Finding is the result of one check of one server.
type Finding struct {
	Server   string   `json:"server"`
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`
	// Do says what to do. It is empty if no action is needed.
	Do string `json:"do,omitempty"`
}

func (f Finding) String() string {
	text := f.Check + ": " + f.Found
	if f.Do != "" {
		text += "; " + f.Do
	}
	return text
}

// Report has the findings of one or more servers, in the order of the checks.
type Report []Finding

// Of returns the report with server set in each finding that names no server.
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

// Err returns all faults in one line, or nil.
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

// Fine adds a finding that needs no action.
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
