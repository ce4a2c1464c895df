package main

import (
	"encoding/json"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
)

// streams are the outputs of a command.
type streams struct{ out, err io.Writer }

// json prints v as indented JSON.
func (s streams) json(v any) error {
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table returns a table that Render prints.
func (s streams) table(columns ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(s.out)
	t.AppendHeader(columns)
	return t
}
