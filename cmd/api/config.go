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

// configFlag names the file that flags may stand in.
type configFlag string

// BeforeResolve reads the file, whether an argument or the environment named it.
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
// command line and the environment win over it, and whatever could be read in two
// ways is an error: kong's own reader lets the file win over the environment,
// passes a misspelt name over in silence, and rounds numbers.
type configFile struct {
	path   string
	values map[string]any    // by flag
	spelt  map[string]string // the name in the file, by flag
}

func readConfig(path string) (*configFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// A name that stands there twice is an error of this reader's, and so is what
	// follows the object.
	var members map[string]jsontext.Value
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("%s is no JSON object of flags: %w", path, located(err, text))
	}
	if members == nil {
		return nil, fmt.Errorf("%s is no JSON object of flags: it is null", path)
	}
	f := &configFile{path: path, values: map[string]any{}, spelt: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		flag := strings.ReplaceAll(name, "_", "-")
		if other, ok := f.spelt[flag]; ok {
			return nil, fmt.Errorf("%s: %s and %s are one flag", path, other, name)
		}
		f.spelt[flag] = name
		if f.values[flag], err = flagValue(members[name]); err != nil {
			return nil, fmt.Errorf("%s: %s %w", path, name, err)
		}
	}
	return f, nil
}

// located is what is wrong with a text of JSON, with the line. It does not
// repeat the text, which has secrets.
func located(err error, text []byte) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		line := 1 + bytes.Count(text[:min(int(syntax.ByteOffset), len(text))], []byte("\n"))
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

// flagValue is what the flag would be given on the command line: numbers as they
// are written, so that none is rounded. Lists stay lists of such.
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
				return nil, errors.New("has a list within its list")
			}
		}
		return list, nil
	}
	return nil, errors.New("is neither text, a number, true or false, nor a list of such")
}

// Validate finds names that are no flags.
func (f *configFile) Validate(app *kong.Application) error {
	unknown := maps.Clone(f.spelt)
	for _, command := range app.Leaves(false) {
		for _, group := range command.AllFlags(false) {
			for _, flag := range group {
				delete(unknown, flag.Name)
			}
		}
	}
	if names := slices.Sorted(maps.Values(unknown)); len(names) > 0 {
		return fmt.Errorf("--config: %s: there is no flag %s", f.path, strings.Join(names, ", "))
	}
	// They are looked for before the file is read: it would be silence again.
	for _, flag := range []string{"config", "help"} {
		if name, ok := f.spelt[flag]; ok {
			return fmt.Errorf("--config: %s: %s cannot be set by a file", f.path, name)
		}
	}
	return nil
}

// Resolve is the file's value of a flag that is not set otherwise.
func (f *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	value := f.values[flag.Name]
	if _, list := value.([]any); list && !flag.IsSlice() {
		return nil, fmt.Errorf("%s has a list for it, it takes one value", f.path) // kong would repeat it, a secret or not
	}
	return value, nil
}
