// Package look is what all pages share: one stylesheet, one module of charts, and uPlot,
// which draws them. The service and the lab serve these files; reports contain them.
package look

import (
	"embed"
	"io/fs"
	"regexp"
	"strings"
)

// Files are look.css, charts.js, uplot/uPlot.min.css and uplot/uPlot.iife.min.js.
//
//go:embed *.css *.js uplot
var Files embed.FS

// Read returns a file of a page, which must be embedded: it panics if the file is missing.
func Read(files fs.FS, name string) string {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// CSS is the stylesheet of a page that loads no other file.
func CSS() string { return Read(Files, "uplot/uPlot.min.css") + Read(Files, "look.css") }

// UPlot is the script that defines uPlot, with its licence.
func UPlot() string {
	return "/*!\n" + Read(Files, "uplot/LICENSE") + "\n*/\n" + Read(Files, "uplot/uPlot.iife.min.js")
}

// Charts is the source of charts.js, an ES module. It needs uPlot.
func Charts() string { return Read(Files, "charts.js") }

var (
	imports = regexp.MustCompile(`(?m)^import [^;]*;\n`)
	exports = regexp.MustCompile(`(?m)^export (default )?`)
)

// Join makes one script of the sources of ES modules, for a page that loads no other file.
// Each module stands after those that it imports. No two of them may use the same name at
// their top level.
func Join(modules ...string) string {
	var b strings.Builder
	for _, source := range modules {
		b.WriteString(exports.ReplaceAllString(imports.ReplaceAllString(source, ""), ""))
	}
	return b.String()
}
