package httpapi

import (
	"errors"

	"github.com/gin-gonic/gin"
)

// storefrontNeeds lets the shop load and call this service alone.
const storefrontNeeds = "script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"

// serveStorefront serves a small shop, which is a customer of the API as any
// other. A token comes to it behind the # of an address, which browsers send to
// nobody, or is typed.
func (a *api) serveStorefront(r gin.IRoutes) error {
	return errors.Join(
		a.servePage(r, "/", "storefront.html", storefrontNeeds),
		a.servePage(r, "/assets/storefront.css", "storefront.css", storefrontNeeds),
		a.servePage(r, "/assets/storefront.js", "storefront.js", storefrontNeeds),
	)
}
