package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"flashsale/loadtest/proof"
)

// The files that Save writes.
const (
	ProofFile = "proof.json"
	PageFile  = "report.html"
)

// Save writes the proof and its page into dir, which is made if need be. Each
// file is replaced as a whole: a reader never finds half of one.
func Save(dir string, p *proof.Proof) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save the proof: %w", err)
	}
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("save the proof: %w", err)
	}
	var page bytes.Buffer
	if err := Page(&page, p); err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, ProofFile), append(data, '\n')); err != nil {
		return fmt.Errorf("save the proof: %w", err)
	}
	if err := replace(filepath.Join(dir, PageFile), page.Bytes()); err != nil {
		return fmt.Errorf("save the report: %w", err)
	}
	return nil
}

func replace(path string, data []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
