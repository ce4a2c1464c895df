package lab

import (
	"bytes"
	"embed"
	"mime"
	"net/http"
	"path"
	"time"

	"flashsale/internal/look"
)

//go:embed pages
var pages embed.FS

// servePages serves each file of pages at /assets, the common files beside them, and the
// three pages at addresses of their own.
func (s *Server) servePages() error {
	files, err := pages.ReadDir("pages")
	if err != nil {
		return err
	}
	for _, f := range files {
		s.serve("/assets/"+f.Name(), look.Read(pages, "pages/"+f.Name()))
	}
	s.serve("/assets/look.css", look.Read(look.Files, "look.css"))
	s.serve("/assets/charts.js", look.Charts())
	s.serve("/assets/uplot.js", look.UPlot())
	s.serve("/assets/uplot.css", look.Read(look.Files, "uplot/uPlot.min.css"))
	for address, name := range map[string]string{"/{$}": "lab.html", "/lessons": "lessons.html", "/scheduler": "scheduler.html"} {
		s.serve(address, look.Read(pages, "pages/"+name))
	}
	return nil
}

func (s *Server) serve(address, text string) {
	kind := mime.TypeByExtension(path.Ext(address))
	if kind == "" {
		kind = "text/html; charset=utf-8"
	}
	s.mux.HandleFunc("GET "+address, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(text)))
	})
}
