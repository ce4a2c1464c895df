// Package settings has the settings that operators change while replicas run: values
// in etcd that override the flags, on every replica within a second. It guarantees that
// an invalid value changes nothing and is reported, and that the flags apply again when
// a key is deleted. The effect of a value is left to the caller.
package settings

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"flashsale/internal/limit"
)

// Values has the value of each setting.
type Values struct {
	Quantum               time.Duration // for which a desk keeps its SKU's lock while another replica waits
	LogLevel              slog.Level    // the lowest that is logged
	ByCustomer, ByAddress limit.Limit   // of the requests of one caller
}

// Setting is one row of the table of settings.
type Setting struct {
	Name string // the last part of its key in etcd, and its flag without the dashes
	Help string // describes the setting and its values

	parse func(text string, v *Values) error // sets the value in v, or says why text is not valid
	show  func(v Values) string              // formats the value in v for parse
}

// table has all settings. The watch, the commands and the tests use it.
var table = []Setting{
	{"log-level", "The lowest level that is logged: debug, info, warn or error.",
		func(text string, v *Values) error { return parseLevel(text, &v.LogLevel) },
		func(v Values) string { return strings.ToLower(v.LogLevel.String()) }},
	{"quantum", fmt.Sprintf("How long a SKU's lock is kept while another replica waits: %s to %s.", minQuantum, maxQuantum),
		func(text string, v *Values) error { return parseQuantum(text, &v.Quantum) },
		func(v Values) string { return v.Quantum.String() }},
	{"rate-limit-address", "Requests of one address at each replica: for example 1000/10s; 0 means no limit.",
		func(text string, v *Values) error { return parseLimit(text, &v.ByAddress) },
		func(v Values) string { return v.ByAddress.String() }},
	{"rate-limit-customer", "Requests of one customer at each replica: for example 100/10s; 0 means no limit.",
		func(text string, v *Values) error { return parseLimit(text, &v.ByCustomer) },
		func(v Values) string { return v.ByCustomer.String() }},
}

const (
	minQuantum = time.Millisecond // shorter than the fastest batch: a shorter quantum has no effect
	// maxQuantum lets a customer at the last of four replicas get an answer within the
	// default request time-out of five seconds.
	maxQuantum = time.Second
	maxQuoted  = 40 // how many bytes of an invalid value are shown
)

// All returns the settings by name.
func All() []Setting { return slices.Clone(table) }

// Find returns the setting of that name.
func Find(name string) (Setting, error) {
	i := slices.Index(Names(), name)
	if i < 0 {
		return Setting{}, fmt.Errorf("there is no setting %.40q (the settings are %s)", name, strings.Join(Names(), ", "))
	}
	return table[i], nil
}

// Names lists the names of all settings.
func Names() []string {
	names := make([]string, len(table))
	for i, s := range table {
		names[i] = s.Name
	}
	return names
}

// Check returns an error if the value is not valid for the setting of that name.
func Check(name, value string) error {
	s, err := Find(name)
	if err == nil {
		if err = s.Check(value); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	return err
}

// Check returns an error if the value is not valid.
func (s Setting) Check(text string) error {
	var ignored Values
	return s.parse(text, &ignored)
}

// Check returns an error for the first value that is not valid. Flags have the same
// bounds as values in etcd.
func (v Values) Check() error {
	for _, s := range table {
		if err := s.Check(s.show(v)); err != nil {
			return fmt.Errorf("--%s: %w", s.Name, err)
		}
	}
	return nil
}

func parseQuantum(text string, to *time.Duration) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%s is not a duration (example: %s)", quote(text), minQuantum)
	}
	if d < minQuantum || d > maxQuantum {
		return fmt.Errorf("%s is not between %s and %s", d, minQuantum, maxQuantum)
	}
	*to = d
	return nil
}

func parseLimit(text string, to *limit.Limit) error {
	if len(text) > maxQuoted { // limit.Parse would quote all of it
		return fmt.Errorf("%s is not a limit (example: 100/10s)", quote(text))
	}
	parsed, err := limit.Parse(text)
	if err == nil {
		*to = parsed
	}
	return err
}

func parseLevel(text string, to *slog.Level) error {
	switch text {
	case "debug", "info", "warn", "error":
		return to.UnmarshalText([]byte(text))
	}
	return fmt.Errorf("%s is not one of debug, info, warn and error", quote(text))
}

// quote shows the beginning of a value of any length and content.
func quote(text string) string {
	if len(text) <= maxQuoted {
		return strconv.Quote(text)
	}
	return strconv.Quote(text[:maxQuoted]) + "..."
}
