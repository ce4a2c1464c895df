package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// configFlag names a file that sets flags.
type configFlag string

// BeforeResolve reads the file, which an argument or the environment names.
func (configFlag) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(configFlag))
	file, err := readConfig(kong.ExpandPath(path))
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	ctx.AddResolver(file)
	return nil
}

// configFile is a JSON object of flags by name, with hyphens or underscores. The
// command line and the environment take precedence. Ambiguity is an error. kong's own
// reader would give the file precedence over the environment, ignore misspelt names
// and round numbers.
type configFile struct {
	path   string
	values map[string]any    // by flag
	names  map[string]string // the names in the file, by flag
}

func readConfig(path string) (*configFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// Unmarshal rejects duplicate names and trailing data.
	var members map[string]jsontext.Value
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("%s is not a JSON object of flags: %w", path, located(err, text))
	}
	if members == nil {
		return nil, fmt.Errorf("%s is not a JSON object of flags: it is null", path)
	}
	f := &configFile{path: path, values: map[string]any{}, names: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		flag := strings.ReplaceAll(name, "_", "-")
		if other, ok := f.names[flag]; ok {
			return nil, fmt.Errorf("%s: %s and %s are the same flag", path, other, name)
		}
		f.names[flag] = name
		if f.values[flag], err = flagValue(members[name]); err != nil {
			return nil, fmt.Errorf("%s: %s %w", path, name, err)
		}
	}
	return f, nil
}

// located adds the line to a syntax error. It does not quote the text, which may
// contain secrets.
func located(err error, text []byte) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		line := 1 + bytes.Count(text[:min(int(syntax.ByteOffset), len(text))], []byte("\n"))
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

// flagValue returns the value as on the command line, so that no number is rounded, or
// a list of such values.
func flagValue(value jsontext.Value) (any, error) {
	switch value.Kind() {
	case '"':
		var text string
		err := json.Unmarshal(value, &text)
		return text, err
	case '0', 't', 'f':
		return value.String(), nil
	case '[':
		var items []jsontext.Value
		if err := json.Unmarshal(value, &items); err != nil {
			return nil, err
		}
		list := make([]any, len(items))
		for i, item := range items {
			var err error
			if list[i], err = flagValue(item); err != nil {
				return nil, err
			}
			if _, nested := list[i].([]any); nested {
				return nil, errors.New("must not contain a list within a list")
			}
		}
		return list, nil
	}
	return nil, errors.New("must be a string, a number, a boolean or a list of those")
}

// Validate rejects names that are not flags of any command.
func (f *configFile) Validate(app *kong.Application) error {
	unknown := maps.Clone(f.names)
	for _, command := range app.Leaves(false) {
		for _, group := range command.AllFlags(false) {
			for _, flag := range group {
				delete(unknown, flag.Name)
			}
		}
	}
	if names := slices.Sorted(maps.Values(unknown)); len(names) > 0 {
		return fmt.Errorf("--config: %s: unknown flag %s", f.path, strings.Join(names, ", "))
	}
	// These are handled before the file is read, so that it cannot set them.
	for _, flag := range []string{"config", "help"} {
		if name, ok := f.names[flag]; ok {
			return fmt.Errorf("--config: %s: a file cannot set %s", f.path, name)
		}
	}
	return nil
}

// Resolve returns the file's value of a flag that the environment does not set.
func (f *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	value := f.values[flag.Name]
	if _, list := value.([]any); list && !flag.IsSlice() {
		return nil, fmt.Errorf("%s has a list for it, must be a single value", f.path) // kong's own error would quote the value
	}
	return value, nil
}
