package lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"flashsale/internal/look"
)

// savedTemplate is a run as one file. It loads no other file, and runs no script but its
// own.
var savedTemplate = template.Must(template.New("saved").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{.Policy}}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{.Title}} - flashsale race lab</title>
<style>{{.Style}}</style>
</head>
<body>
<main class="lab">
<header>
  <p class="kicker">flashsale &middot; race lab &middot; a saved run</p>
  <h1>{{.Title}}</h1>
</header>
<div id="run"></div>
</main>
<script type="application/json" id="journal">{{.Journal}}</script>
<script>{{.UPlot}}</script>
<script>{{.Script}}</script>
</body>
</html>
`))

type saved struct {
	Title         string
	Policy        string
	Style         template.CSS
	Journal       json.RawMessage
	UPlot, Script template.JS
}

const showJournal = `showSaved(document.querySelector("#run"), JSON.parse(document.querySelector("#journal").textContent));
`

// savedPage answers with a run that has ended, as one HTML file: its whole journal, and the
// modules that draw it on the live page.
func (s *Server) savedPage(w http.ResponseWriter, r *http.Request) {
	a := s.find(w, r)
	switch {
	case a == nil:
		return
	case a.Kind != "run":
		fail(w, http.StatusNotFound, &Problem{Message: "only a run can be saved"})
		return
	case !a.over():
		fail(w, http.StatusConflict, &Problem{Message: "the run has not ended yet: save it when it has", Running: &a.About})
		return
	}
	page := saved{
		Title: a.Title,
		Style: template.CSS(look.CSS() + look.Read(pages, "pages/lab.css") + look.Read(pages, "pages/diagram.css")),
		UPlot: template.JS(look.UPlot()),
		Script: template.JS(look.Join(look.Charts(), look.Read(pages, "pages/diagram.js"), look.Read(pages, "pages/run-view.js"),
			showJournal)),
	}
	page.Policy = fmt.Sprintf("default-src 'none'; script-src %s %s; style-src %s; img-src data:; base-uri 'none'; form-action 'none'",
		hash(string(page.UPlot)), hash(string(page.Script)), hash(string(page.Style)))
	var file bytes.Buffer
	journal, err := json.Marshal(a.messages())
	if page.Journal = journal; err == nil {
		err = savedTemplate.Execute(&file, page)
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, &Problem{Message: "save the run: " + err.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Disposition", `attachment; filename="`+fileName(a)+`"`)
	_, _ = w.Write(file.Bytes()) // it fails only if the page is gone
}

// fileName says what was run, in characters that each system takes.
func fileName(a *activity) string {
	name := strings.NewReplacer(" ", "-", ":", "", "'", "").Replace(a.Title)
	if run, ok := a.kept().(Setting); ok {
		name += fmt.Sprintf("-seed-%d", run.Seed)
	}
	return "race-lab-" + name + ".html"
}

// hash names an inline script or style in a content security policy.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// messages returns the journal as pairs of event and data.
func (a *activity) messages() [][2]any {
	some, _ := a.from(0)
	pairs := make([][2]any, len(some))
	for i, m := range some {
		pairs[i] = [2]any{m.event, json.RawMessage(m.data)}
	}
	return pairs
}
