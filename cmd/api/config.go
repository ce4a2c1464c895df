package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// configFile is a JSON object of flags by name, with hyphens or underscores. The
// command line and the environment win over it, and a name that no command has is
// an error: kong's own reader lets the file win over the environment, and passes
// a misspelt name over in silence.
type configFile map[string]any

func readConfig(r io.Reader) (kong.Resolver, error) {
	var values map[string]any
	if err := json.NewDecoder(r).Decode(&values); err != nil {
		return nil, fmt.Errorf("not a JSON object of flags: %w", err)
	}
	file := configFile{}
	for name, value := range values {
		file[strings.ReplaceAll(name, "_", "-")] = value
	}
	return file, nil
}

// Validate finds names that are no flags.
func (f configFile) Validate(app *kong.Application) error {
	unknown := maps.Clone(f)
	for _, command := range app.Leaves(false) {
		for _, group := range command.AllFlags(false) {
			for _, flag := range group {
				delete(unknown, flag.Name)
			}
		}
	}
	if names := slices.Sorted(maps.Keys(unknown)); len(names) > 0 {
		return fmt.Errorf("--config: there is no flag %s", strings.Join(names, ", "))
	}
	return nil
}

// Resolve is the file's value of a flag that is not set otherwise.
func (f configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	return f[flag.Name], nil
}
