package httpapi

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/yuin/goldmark"

	"flashsale/docs"
	"flashsale/internal/httpapi/spec"
)

// pageFiles are the pages and everything that they load.
//
//go:embed pages/*.html pages/*.css pages/*.js pages/*.svg pages/swagger-ui/*.gz
var pageFiles embed.FS

const (
	// shopSources and docsSources are the Content-Security-Policy's sources.
	shopSources = "script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
	docsSources = "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
	// swaggerUI contains the viewer's version: caches keep these files forever.
	swaggerUI = "/assets/swagger-ui-5.35.0/"
)

// servePages serves the storefront, an ordinary client of the API, and the
// documentation.
func (a *api) servePages(r gin.IRoutes) error {
	a.servePage(r, "/openapi.yaml", page{kind: "application/yaml", body: spec.YAML})
	for _, file := range []struct{ address, name, sources string }{
		{"/", "storefront.html", shopSources},
		{"/assets/storefront.css", "storefront.css", shopSources},
		{"/assets/storefront.js", "storefront.js", shopSources},
		{"/docs", "docs.html", docsSources},
		{"/assets/docs.css", "docs.css", docsSources},
		{"/assets/docs.js", "docs.js", docsSources},
		{"/assets/icon.svg", "icon.svg", docsSources},
		{swaggerUI + "swagger-ui.css", "swagger-ui/swagger-ui.css.gz", docsSources},
		{swaggerUI + "swagger-ui-bundle.js", "swagger-ui/swagger-ui-bundle.js.gz", docsSources},
	} {
		body, err := pageFiles.ReadFile("pages/" + file.name)
		if err != nil {
			return fmt.Errorf("page %s: %w", file.address, err)
		}
		name, zipped := strings.CutSuffix(file.name, ".gz")
		p := page{kind: mime.TypeByExtension(path.Ext(name)), sources: file.sources, body: body, versioned: path.Dir(name) != "."}
		if zipped {
			p.unzipped = sync.OnceValues(func() ([]byte, error) { return unzip(body) })
		}
		a.servePage(r, file.address, p)
	}
	return nil
}

// page is a file as it is served. It does not change.
type page struct {
	kind    string // media type
	sources string // for its Content-Security-Policy
	etag    string
	body    []byte
	// unzipped returns the body without gzip; nil if body is not compressed.
	unzipped func() ([]byte, error)
	// versioned: the address contains the version, so caches may keep the page.
	versioned bool
}

// servePage serves a page at an address.
func (a *api) servePage(r gin.IRoutes, address string, p page) {
	digest := sha256.Sum256(p.body)
	p.etag = base64.RawURLEncoding.EncodeToString(digest[:12])
	r.GET(address, func(c *gin.Context) {
		if err := p.serve(c); err != nil {
			a.fail(c, err)
		}
	})
}

func unzip(body []byte) ([]byte, error) {
	in, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = io.ReadAll(in) // our own file: its size is bounded
	}
	if err != nil {
		return nil, fmt.Errorf("unzip a page: %w", err)
	}
	return body, nil
}

func (p *page) serve(c *gin.Context) error {
	allow(c, p.sources)
	cached(c)
	c.Header("Content-Type", p.kind)
	if p.versioned {
		c.Header("Cache-Control", "public, max-age=31536000, immutable")
	}
	body, etag := p.body, p.etag
	if p.unzipped != nil {
		c.Header("Vary", "Accept-Encoding")
		if strings.Contains(c.GetHeader("Accept-Encoding"), "gzip") {
			c.Header("Content-Encoding", "gzip")
			etag += "-gzip" // each encoding needs its own ETag
		} else {
			var err error
			if body, err = p.unzipped(); err != nil {
				return err
			}
		}
	}
	etag = `"` + etag + `"`
	c.Header("ETag", etag)
	if c.GetHeader("If-None-Match") == etag {
		c.Status(http.StatusNotModified)
		return nil
	}
	_, _ = c.Writer.Write(body) // it fails only if the client has disconnected
	return nil
}

// allow sets a page's Content-Security-Policy: the strictest one, plus the sources
// that the page needs, like "script-src 'self'".
func allow(c *gin.Context, sources string) {
	c.Header("Content-Security-Policy", apiPolicy+"; base-uri 'none'; form-action 'none'; "+sources)
}

// cached lets caches store an answer that is the same for everyone. They must
// revalidate it before each use.
func cached(c *gin.Context) { c.Header("Cache-Control", "no-cache") }

// errorStyle is the error pages' style. Their policy allows it by its digest.
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

// serveErrors serves a page at each problem's type, and a list of all problems.
func (a *api) serveErrors(r gin.IRoutes) error {
	digest := sha256.Sum256([]byte(errorStyle))
	sources := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'"
	serve := func(address, title string, body template.HTML, list []kind) error {
		var out bytes.Buffer
		err := errorPage.Execute(&out, map[string]any{"Title": title, "Style": template.CSS(errorStyle), "Body": body, "Kinds": list})
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
	list := slices.SortedFunc(slices.Values(kinds), func(a, b kind) int { return cmp.Or(a.Status-b.Status, strings.Compare(a.Slug, b.Slug)) })
	return serve("/errors", "Errors", "<h1>Errors</h1>\n", list)
}
