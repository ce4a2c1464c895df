// Package settings is what operators change while replicas run: values in etcd
// that win over the flags, on every replica within a second. It guarantees that
// a value which is not valid changes nothing and is reported, and that a setting
// whose key is deleted is again what the flags say. What a value brings about is
// left to whoever applies it.
package settings

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"flashsale/internal/limit"
)

// Values are what all settings say.
type Values struct {
	// Quantum is how long a desk keeps its SKU's lock while another replica waits.
	Quantum time.Duration
	// LogLevel is the least level that is logged.
	LogLevel slog.Level
	// ByCustomer and ByAddress are how many requests one caller may make.
	ByCustomer, ByAddress limit.Limit
}

// Setting is one row of the table: what its key is called, and what it may say.
type Setting struct {
	// Name is the last part of its key in etcd, and its flag without the dashes.
	Name string
	// Help says what it is, and which values it takes.
	Help string

	// parse takes a value into v, or says what is wrong with it.
	parse func(text string, v *Values) error
	// show is the value in v as parse would take it.
	show func(v Values) string
}

// table has every setting there is. The watch, the commands and the tests are
// driven by it.
var table = []Setting{
	{
		Name: "log-level", Help: "The least level that is logged: debug, info, warn or error.",
		parse: func(text string, v *Values) error { return parseLevel(text, &v.LogLevel) },
		show:  func(v Values) string { return strings.ToLower(v.LogLevel.String()) },
	},
	{
		Name: "quantum", Help: fmt.Sprintf("How long a SKU's lock is kept while another replica waits: %s to %s.", minQuantum, maxQuantum),
		parse: func(text string, v *Values) error { return parseDuration(text, minQuantum, maxQuantum, &v.Quantum) },
		show:  func(v Values) string { return v.Quantum.String() },
	},
	{
		Name: "rate-limit-address", Help: "Requests of one address at each replica: such as 1000/10s, or 0 for no limit.",
		parse: func(text string, v *Values) error { return parseLimit(text, &v.ByAddress) },
		show:  func(v Values) string { return v.ByAddress.String() },
	},
	{
		Name: "rate-limit-customer", Help: "Requests of one customer at each replica: such as 100/10s, or 0 for no limit.",
		parse: func(text string, v *Values) error { return parseLimit(text, &v.ByCustomer) },
		show:  func(v Values) string { return v.ByCustomer.String() },
	},
}

const (
	// minQuantum is less than the quickest batch takes: shorter changes nothing.
	minQuantum = time.Millisecond
	// maxQuantum leaves a buyer at the last of four replicas an answer within the
	// usual request time-out of five seconds.
	maxQuantum = time.Second
	// quoted is how much of a wrong value is shown.
	quoted = 40
)

// All returns the table, in the order of the names.
func All() []Setting { return append([]Setting(nil), table...) }

// Find returns the setting of that name.
func Find(name string) (Setting, error) {
	for _, s := range table {
		if s.Name == name {
			return s, nil
		}
	}
	return Setting{}, fmt.Errorf("there is no setting %.40q (there are: %s)", name, strings.Join(Names(), ", "))
}

// Names lists the settings.
func Names() []string {
	names := make([]string, len(table))
	for i, s := range table {
		names[i] = s.Name
	}
	return names
}

// Check says what is wrong with a value for the setting of that name; nil if
// nothing is.
func Check(name, value string) error {
	s, err := Find(name)
	if err != nil {
		return err
	}
	if err := s.Check(value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Check says what is wrong with a value; nil if nothing is.
func (s Setting) Check(text string) error {
	var ignored Values
	return s.parse(text, &ignored)
}

// Check finds the first value that its setting does not allow: flags are held to
// the same bounds.
func (v Values) Check() error {
	for _, s := range table {
		if err := s.Check(s.show(v)); err != nil {
			return fmt.Errorf("--%s: %w", s.Name, err)
		}
	}
	return nil
}

func parseDuration(text string, least, most time.Duration, to *time.Duration) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%s is no duration (such as %s)", quote(text), least)
	}
	if d < least || d > most {
		return fmt.Errorf("%s is not between %s and %s", d, least, most)
	}
	*to = d
	return nil
}

func parseLimit(text string, to *limit.Limit) error {
	if len(text) > quoted { // it would be quoted whole
		return fmt.Errorf("%s is no limit (such as 100/10s)", quote(text))
	}
	l, err := limit.Parse(text)
	if err == nil {
		*to = l
	}
	return err
}

func parseLevel(text string, to *slog.Level) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[text]
	if !ok {
		return fmt.Errorf("%s is none of debug, info, warn and error", quote(text))
	}
	*to = level
	return nil
}

// quote shows a value that may be of any length, and hold anything.
func quote(text string) string {
	if len(text) > quoted {
		return fmt.Sprintf("%q...", text[:quoted])
	}
	return fmt.Sprintf("%q", text)
}
