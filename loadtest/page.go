package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"flashsale/loadtest/bench"
	"flashsale/loadtest/faults"
	"flashsale/loadtest/report"
)

// pageCmd writes the page of a saved result again, beside it.
type pageCmd struct {
	File string `arg:"" help:"proof.json, bench.json or faults.json."`
}

func (c *pageCmd) Run() error {
	switch name := filepath.Base(c.File); name {
	case report.ProofFile:
		return writePage(c.File, report.PageFile, report.Page)
	case bench.ResultFile:
		return writePage(c.File, bench.PageFile, bench.Page)
	case faults.ResultFile:
		return writePage(c.File, faults.PageFile, faults.Page)
	default:
		return fmt.Errorf("%s: the name must be %s, %s or %s", c.File, report.ProofFile, bench.ResultFile, faults.ResultFile)
	}
}

func writePage[R any](file, page string, write func(io.Writer, *R) error) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var result R
	if err := json.Unmarshal(text, &result); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return report.WritePage(filepath.Join(filepath.Dir(file), page), func(w io.Writer) error { return write(w, &result) })
}
