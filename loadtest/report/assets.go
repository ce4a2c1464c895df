package report

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
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
}).ParseFS(assets, "assets/shared.html"))

// Layout writes pages of one kind.
type Layout struct{ template *template.Template }

// NewLayout parses what a kind of page has of its own: the templates "sections" and
// "script", which are given the page's view, and perhaps "style". It panics if one is
// invalid.
func NewLayout(files fs.FS, path string) Layout {
	return Layout{template.Must(template.Must(shared.Clone()).ParseFS(files, path))}
}

// Head is what all pages show.
type Head struct {
	Kind, Title, Lead, Verdict string
	// Good is the colour of the verdict.
	Good bool
	Foot string
	// File is the name of the result when it is downloaded.
	File string
}

// Write writes a page that loads no other file. The page contains the whole result as JSON.
func (l Layout) Write(w io.Writer, head Head, result, view any) error {
	err := l.template.ExecuteTemplate(w, "layout", struct {
		Head
		Result, View any
	}{head, result, view})
	if err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
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
