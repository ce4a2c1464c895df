// Package settings has the settings that operators change while replicas run: values
// in etcd that override the flags, on every replica within a second. It guarantees that
// an invalid value changes nothing and is reported, and that the flags apply again when
// a key is deleted. The effect of a value is left to the caller.
package settings

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"flashsale/internal/limit"
)

// Values has the value of each setting.
type Values struct {
	// Quantum is how long a desk keeps its SKU's lock while another replica waits.
	Quantum time.Duration
	// LogLevel is the lowest level that is logged.
	LogLevel slog.Level
	// ByCustomer and ByAddress are how many requests one caller may make.
	ByCustomer, ByAddress limit.Limit
}

// Setting is one row of the table of settings.
type Setting struct {
	// Name is the last part of its key in etcd, and its flag without the dashes.
	Name string
	// Help describes the setting and its values.
	Help string

	// parse sets the value in v, or says why the text is not valid.
	parse func(text string, v *Values) error
	// show formats the value in v for parse.
	show func(v Values) string
}

// table has all settings. The watch, the commands and the tests use it.
var table = []Setting{
	{
		Name: "log-level", Help: "The lowest level that is logged: debug, info, warn or error.",
		parse: func(text string, v *Values) error { return parseLevel(text, &v.LogLevel) },
		show:  func(v Values) string { return strings.ToLower(v.LogLevel.String()) },
	},
	{
		Name: "quantum", Help: fmt.Sprintf("How long a SKU's lock is kept while another replica waits: %s to %s.", minQuantum, maxQuantum),
		parse: func(text string, v *Values) error { return parseDuration(text, minQuantum, maxQuantum, &v.Quantum) },
		show:  func(v Values) string { return v.Quantum.String() },
	},
	{
		Name: "rate-limit-address", Help: "Requests of one address at each replica: for example 1000/10s; 0 means no limit.",
		parse: func(text string, v *Values) error { return parseLimit(text, &v.ByAddress) },
		show:  func(v Values) string { return v.ByAddress.String() },
	},
	{
		Name: "rate-limit-customer", Help: "Requests of one customer at each replica: for example 100/10s; 0 means no limit.",
		parse: func(text string, v *Values) error { return parseLimit(text, &v.ByCustomer) },
		show:  func(v Values) string { return v.ByCustomer.String() },
	},
}

const (
	// minQuantum is shorter than the fastest batch: a shorter quantum has no effect.
	minQuantum = time.Millisecond
	// maxQuantum lets a customer at the last of four replicas get an answer within the
	// default request time-out of five seconds.
	maxQuantum = time.Second
	// maxQuoted is how many bytes of an invalid value are shown.
	maxQuoted = 40
)

// All returns the settings by name.
func All() []Setting { return slices.Clone(table) }

// Find returns the setting of that name.
func Find(name string) (Setting, error) {
	for _, s := range table {
		if s.Name == name {
			return s, nil
		}
	}
	return Setting{}, fmt.Errorf("there is no setting %.40q (the settings are %s)", name, strings.Join(Names(), ", "))
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
	if err != nil {
		return err
	}
	if err := s.Check(value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
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

func parseDuration(text string, least, most time.Duration, to *time.Duration) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%s is not a duration (example: %s)", quote(text), least)
	}
	if d < least || d > most {
		return fmt.Errorf("%s is not between %s and %s", d, least, most)
	}
	*to = d
	return nil
}

func parseLimit(text string, to *limit.Limit) error {
	if len(text) > maxQuoted { // limit.Parse would quote all of it
		return fmt.Errorf("%s is not a limit (example: 100/10s)", quote(text))
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
		return fmt.Errorf("%s is not one of debug, info, warn and error", quote(text))
	}
	*to = level
	return nil
}

// quote shows the beginning of a value of any length and content.
func quote(text string) string {
	if len(text) > maxQuoted {
		return fmt.Sprintf("%q...", text[:maxQuoted])
	}
	return fmt.Sprintf("%q", text)
}
