package httpapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
)

// pageFiles are the pages and everything that they load.
//
//go:embed pages/*.html pages/*.css pages/*.js pages/*.svg pages/swagger-ui/*.gz
var pageFiles embed.FS

const (
	// shopSources and docsSources are what a browser may load for the storefront
	// and for the API's documentation, whose style sheet embeds images as data.
	shopSources = "script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
	docsSources = "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
	// swaggerUI contains the viewer's version: caches keep these files forever.
	swaggerUI = "/assets/swagger-ui-5.35.0/"
)

// servePages serves the storefront, the documentation and openapi.yaml. The
// storefront is an ordinary client of the API. It takes a customer's token from
// the fragment (#) of its address, which browsers do not send.
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
	// unzipped returns the body for clients that do not accept gzip, unzipped
	// once; nil if body is not compressed.
	unzipped func() ([]byte, error)
	// versioned is set if the address contains the version: caches may keep the
	// page without revalidation.
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
