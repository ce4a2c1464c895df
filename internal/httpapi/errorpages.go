package httpapi

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/yuin/goldmark"

	"flashsale/docs"
)

// errorStyle is all that the error pages load. Their Content-Security-Policy allows
// it by its digest.
const errorStyle = `body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#1d1d1f;background:#fff}` +
	`pre{padding:1rem;overflow:auto;background:#f4f4f6}code{font-size:.9em}td{padding:.1rem 1rem .1rem 0}` +
	`@media(prefers-color-scheme:dark){body{color:#eee;background:#18181b}pre{background:#26262b}a{color:#8ab4ff}}`

var errorPage = template.Must(template.New("error").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title>
<style>{{.Style}}</style></head><body><main>
{{.Body}}{{with .Kinds}}<table>
{{range .}}<tr><td>{{.Status}}</td><td><a href="/errors/{{.Slug}}">{{.Slug}}</a></td><td>{{.Title}}</td></tr>
{{end}}</table>{{else}}<p><a href="/errors">All errors</a></p>{{end}}
</main></body></html>
`))

// errorEntry is a row of the list of all errors.
type errorEntry struct {
	Slug, Title string
	Status      int
}

// serveErrors serves a page at each problem's type, and a list of all problems.
func (a *api) serveErrors(r gin.IRoutes) error {
	digest := sha256.Sum256([]byte(errorStyle))
	sources := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'"
	serve := func(address, title string, body template.HTML, entries []errorEntry) error {
		var out bytes.Buffer
		err := errorPage.Execute(&out, map[string]any{"Title": title, "Style": template.CSS(errorStyle), "Body": body, "Kinds": entries})
		if err != nil {
			return fmt.Errorf("page %s: %w", address, err)
		}
		a.servePage(r, address, page{kind: "text/html; charset=utf-8", sources: sources, body: out.Bytes()})
		return nil
	}
	files, err := docs.Errors.ReadDir("errors")
	if err != nil {
		return fmt.Errorf("error pages: %w", err)
	}
	for _, file := range files {
		slug := strings.TrimSuffix(file.Name(), ".md")
		text, err := docs.Errors.ReadFile("errors/" + file.Name())
		if err != nil {
			return fmt.Errorf("error page %s: %w", slug, err)
		}
		var body bytes.Buffer
		if err := goldmark.Convert(text, &body); err != nil {
			return fmt.Errorf("error page %s: %w", slug, err)
		}
		if err := serve("/errors/"+slug, slug, template.HTML(body.String()), nil); err != nil {
			return err
		}
	}
	entries := make([]errorEntry, len(kinds))
	for i, k := range kinds {
		entries[i] = errorEntry{k.slug, k.title, k.status}
	}
	slices.SortFunc(entries, func(a, b errorEntry) int { return cmp.Or(a.Status-b.Status, strings.Compare(a.Slug, b.Slug)) })
	return serve("/errors", "Errors", "<h1>Errors</h1>\n", entries)
}
