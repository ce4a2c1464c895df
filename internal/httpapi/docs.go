package httpapi

import (
	"errors"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
)

// swaggerUI is where the viewer is served: its version is part of the addresses,
// which are kept for good.
const swaggerUI = "/assets/swagger-ui-5.35.0/"

// docsNeeds lets the viewer load and call this service alone. Its style sheet has
// its pictures in it, as data.
const docsNeeds = "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"

// serveDocs serves openapi.yaml, and the page to read it at.
func (a *api) serveDocs(r gin.IRoutes) error {
	a.serveText(r, "/openapi.yaml", page{kind: "application/yaml", body: spec.YAML})
	return errors.Join(
		a.servePage(r, "/docs", "docs.html", docsNeeds),
		a.servePage(r, "/assets/docs.css", "docs.css", docsNeeds),
		a.servePage(r, "/assets/docs.js", "docs.js", docsNeeds),
		a.servePage(r, "/assets/icon.svg", "icon.svg", docsNeeds),
		a.servePage(r, swaggerUI+"swagger-ui.css", "swagger-ui/swagger-ui.css.gz", docsNeeds),
		a.servePage(r, swaggerUI+"swagger-ui-bundle.js", "swagger-ui/swagger-ui-bundle.js.gz", docsNeeds),
	)
}
