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
)

// pageFiles are the pages and what they load: no page needs another host.
//
//go:embed pages/*.html pages/*.css pages/*.js pages/*.svg pages/swagger-ui/*.gz
var pageFiles embed.FS

// page is a file as it is served. It does not change.
type page struct {
	kind  string // of media
	needs string // what a browser may load for it, by its Content-Security-Policy
	etag  string
	body  []byte
	// unpack is the body for the few who take no gzip, nil where it is not packed.
	// It is done once: whoever asks often should not make us work.
	unpack func() ([]byte, error)
	// versioned: its address says which version it is, so that caches may keep it.
	// The others change with the program, and are asked for by their ETag.
	versioned bool
}

// servePage serves an embedded file at an address.
func (a *api) servePage(r gin.IRoutes, address, file, needs string) error {
	body, err := pageFiles.ReadFile("pages/" + file)
	if err != nil {
		return fmt.Errorf("page %s: %w", address, err)
	}
	name, packed := strings.CutSuffix(file, ".gz")
	p := page{kind: mime.TypeByExtension(path.Ext(name)), needs: needs, body: body, versioned: path.Dir(file) != "."}
	if packed {
		p.unpack = sync.OnceValues(func() ([]byte, error) { return unpack(body) })
	}
	a.serveText(r, address, p)
	return nil
}

func unpack(body []byte) ([]byte, error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("unpack a page: %w", err)
	}
	if body, err = io.ReadAll(unpacked); err != nil { // of our own file: it has an end
		return nil, fmt.Errorf("unpack a page: %w", err)
	}
	return body, nil
}

// serveText serves a page that has no ETag yet.
func (a *api) serveText(r gin.IRoutes, address string, p page) {
	digest := sha256.Sum256(p.body)
	p.etag = base64.RawURLEncoding.EncodeToString(digest[:12])
	r.GET(address, func(c *gin.Context) {
		if err := p.serve(c); err != nil {
			a.fail(c, err)
		}
	})
}

func (p *page) serve(c *gin.Context) error {
	allow(c, p.needs)
	cached(c)
	header := c.Writer.Header()
	header.Set("Content-Type", p.kind)
	if p.versioned {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	body, etag := p.body, p.etag
	if p.unpack != nil {
		header.Set("Vary", "Accept-Encoding")
		if strings.Contains(c.GetHeader("Accept-Encoding"), "gzip") {
			header.Set("Content-Encoding", "gzip")
			etag += "-gzip" // another sequence of bytes is another entity
		} else {
			var err error
			if body, err = p.unpack(); err != nil {
				return err
			}
		}
	}
	etag = `"` + etag + `"`
	header.Set("ETag", etag)
	if c.GetHeader("If-None-Match") == etag {
		c.Status(http.StatusNotModified)
		return nil
	}
	_, _ = c.Writer.Write(body) // a reader who has gone is nobody to tell
	return nil
}
