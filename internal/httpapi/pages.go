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
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/yuin/goldmark"

	"flashsale/docs"
	"flashsale/internal/httpapi/spec"
	"flashsale/internal/look"
)

// pageFiles are the pages and everything that they load.
//
//go:embed pages/*.html pages/*.css pages/*.js pages/*.svg
var pageFiles embed.FS

const (
	// shopSources (also of the operator's page) and docsSources (also of the pages of
	// errors) are the Content-Security-Policy's sources.
	shopSources = "script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
	docsSources = "style-src 'self'; img-src 'self'"
)

// servePages serves the storefront and the operator's page, ordinary clients of the API,
// and the documentation.
func (a *api) servePages(r gin.IRoutes) error {
	a.servePage(r, "/openapi.yaml", page{kind: "application/yaml", zipped: zip(spec.YAML)})
	a.servePage(r, "/assets/look.css", page{kind: "text/css; charset=utf-8", sources: shopSources, zipped: zip([]byte(look.Read(look.Files, "look.css")))})
	for _, file := range []struct{ address, name, sources string }{
		{"/", "storefront.html", shopSources},
		{"/assets/storefront.css", "storefront.css", shopSources},
		{"/assets/storefront.js", "storefront.js", shopSources},
		{"/assets/call.js", "call.js", shopSources},
		{"/assets/catalog.js", "catalog.js", shopSources},
		{"/assets/money.js", "money.js", shopSources},
		{"/assets/page.js", "page.js", shopSources},
		{"/assets/stream.js", "stream.js", shopSources},
		{"/assets/stream-worker.js", "stream-worker.js", shopSources},
		{"/admin", "admin.html", shopSources},
		{"/assets/admin.css", "admin.css", shopSources},
		{"/assets/admin.js", "admin.js", shopSources},
		{"/assets/admin-session.js", "admin-session.js", shopSources},
		{"/assets/admin-table.js", "admin-table.js", shopSources},
		{"/assets/admin-form.js", "admin-form.js", shopSources},
		{"/assets/admin-skus.js", "admin-skus.js", shopSources},
		{"/assets/admin-sellers.js", "admin-sellers.js", shopSources},
		{"/assets/admin-reports.js", "admin-reports.js", shopSources},
		{"/assets/icon.svg", "icon.svg", docsSources},
	} {
		body, err := pageFiles.ReadFile("pages/" + file.name)
		if err != nil {
			return fmt.Errorf("page %s: %w", file.address, err)
		}
		if file.address == "/" && a.cfg.PaymentService { // for storefront.js
			body = bytes.Replace(body, []byte(`<html lang="en">`), []byte(`<html lang="en" data-payments="service">`), 1)
		}
		a.servePage(r, file.address, page{kind: mime.TypeByExtension(path.Ext(file.name)), sources: file.sources, zipped: zip(body)})
	}
	document, err := a.docsPage()
	if err != nil {
		return fmt.Errorf("page /docs: %w", err)
	}
	a.servePage(r, "/docs", page{kind: "text/html; charset=utf-8", sources: docsSources, zipped: zip(document)})
	return nil
}

// page is a file as it is served.
type page struct {
	kind    string // media type
	sources string // that its Content-Security-Policy allows: "script-src 'self'"
	zipped  []byte // compressed with gzip
}

// revalidate lets caches store an answer that is the same for everyone. They must
// revalidate it before each use.
const revalidate = "no-cache"

// unused are the features of browsers that no page needs.
const unused = "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), clipboard-write=(), display-capture=(), encrypted-media=(), " +
	"fullscreen=(), gamepad=(), geolocation=(), gyroscope=(), hid=(), idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), " +
	"midi=(), payment=(), picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), storage-access=(), usb=(), " +
	"window-management=(), xr-spatial-tracking=()"

// servePage serves a page at an address.
func (a *api) servePage(r gin.IRoutes, address string, p page) {
	unzipped := sync.OnceValues(func() ([]byte, error) { return unzip(p.zipped) })
	digest := sha256.Sum256(p.zipped)
	tag := base64.RawURLEncoding.EncodeToString(digest[:12])
	r.GET(address, func(c *gin.Context) {
		c.Header("Content-Security-Policy", apiPolicy+"; base-uri 'none'; form-action 'none'; "+p.sources)
		c.Header("Cross-Origin-Opener-Policy", "same-origin") // the window of another origin gets no handle
		c.Header("Permissions-Policy", unused)
		c.Header("Content-Type", p.kind)
		c.Header("Vary", "Accept-Encoding")
		body, etag := p.zipped, `"`+tag+`-gzip"` // each encoding needs its own ETag
		if strings.Contains(c.GetHeader("Accept-Encoding"), "gzip") {
			c.Header("Content-Encoding", "gzip")
		} else {
			var err error
			if body, err = unzipped(); err != nil {
				a.fail(c, err)
				return
			}
			etag = `"` + tag + `"`
		}
		if !notModified(c, etag, revalidate) {
			_, _ = c.Writer.Write(body) // it fails only if the client has disconnected
		}
	})
}

func zip(body []byte) []byte {
	var out bytes.Buffer
	in := gzip.NewWriter(&out)
	_, _ = in.Write(body) // a buffer returns no errors
	_ = in.Close()
	return out.Bytes()
}

func unzip(body []byte) ([]byte, error) {
	in, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("unzip a page: %w", err)
	}
	return io.ReadAll(in) // our own file: its size is bounded
}

// errorPage is the layout of error pages and of their list.
var errorPage = template.Must(template.ParseFS(pageFiles, "pages/error.html"))

// serveErrors serves a page at each problem's type, and a list of all problems.
func (a *api) serveErrors(r gin.IRoutes) error {
	serve := func(address, title string, body template.HTML, list []kind) error {
		var out bytes.Buffer
		if err := errorPage.Execute(&out, map[string]any{"Title": title, "Body": body, "Kinds": list}); err != nil {
			return err
		}
		a.servePage(r, address, page{kind: "text/html; charset=utf-8", sources: docsSources, zipped: zip(out.Bytes())})
		return nil
	}
	files, err := docs.Errors.ReadDir("errors")
	if err != nil {
		return fmt.Errorf("error pages: %w", err)
	}
	for _, file := range files {
		slug := strings.TrimSuffix(file.Name(), ".md")
		text, err := docs.Errors.ReadFile("errors/" + file.Name())
		var body bytes.Buffer
		if err == nil {
			err = goldmark.Convert(text, &body)
		}
		if err == nil {
			err = serve("/errors/"+slug, slug, template.HTML(body.String()), nil)
		}
		if err != nil {
			return fmt.Errorf("error page %s: %w", slug, err)
		}
	}
	list := slices.SortedFunc(slices.Values(kinds), func(a, b kind) int { return cmp.Or(a.Status-b.Status, strings.Compare(a.Slug, b.Slug)) })
	return serve("/errors", "Errors", "<h1>Errors</h1>\n", list)
}
