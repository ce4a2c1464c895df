package report

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"os"
	"path/filepath"

	"flashsale/internal/look"
)

//go:embed assets
var assets embed.FS

// shared are the templates and the functions that all pages use.
var shared = template.Must(template.New("").Funcs(template.FuncMap{
	"css":      func() template.CSS { return template.CSS(look.CSS()) },
	"uplotJS":  func() template.JS { return template.JS(look.UPlot()) },
	"chartsJS": func() template.JS { return template.JS(look.Join(look.Charts())) },
	"pageJS":   func() template.JS { return template.JS(look.Read(assets, "assets/page.js")) },
}).ParseFS(assets, "assets/shared.html"))

// NewTemplate parses a page that uses assets/shared.html, and panics if it is invalid.
func NewTemplate(files fs.FS, path string) *template.Template {
	return template.Must(template.Must(shared.Clone()).ParseFS(files, path)).Lookup(filepath.Base(path))
}

// SaveJSON writes a value into a file, as Replace does.
func SaveJSON(path string, value any, mode os.FileMode) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		err = Replace(path, append(data, '\n'), mode)
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

// Replace writes a file, and creates its folder if necessary. A reader sees the old
// file or the new one, and never a part of it.
func Replace(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
