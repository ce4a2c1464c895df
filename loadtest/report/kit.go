package report

import (
	"errors"
	"html/template"
	"os"
	"path/filepath"
)

// Kit is what pages with charts are made of, to stand inside of them.
type Kit struct {
	CSS, UPlotCSS template.CSS
	UPlotJS       template.JS // its licence first
}

// NewKit reads what is embedded here.
func NewKit() (kit Kit, err error) {
	read := func(name string) string {
		data, readErr := assets.ReadFile("assets/" + name)
		err = errors.Join(err, readErr)
		return string(data)
	}
	kit.CSS, kit.UPlotCSS = template.CSS(read("page.css")), template.CSS(read("uplot/uPlot.min.css"))
	kit.UPlotJS = template.JS("/*!\n" + read("uplot/LICENSE") + "\n*/\n" + read("uplot/uPlot.iife.min.js"))
	return kit, err
}

// Replace writes a file as a whole, in a folder that is made if need be: a reader
// never finds half of one.
func Replace(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return replace(path, data)
}
