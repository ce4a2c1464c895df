package httpapi

import (
	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
)

// What package order does not offer yet is not found here.

// PayOrder is not served yet.
func (a *api) PayOrder(c *gin.Context, _ spec.OrderID) { a.fail(c, kindNoRoute.problem("")) }

// CancelOrder is not served yet.
func (a *api) CancelOrder(c *gin.Context, _ spec.OrderID) { a.fail(c, kindNoRoute.problem("")) }

// ListOrders is not served yet.
func (a *api) ListOrders(c *gin.Context, _ spec.ListOrdersParams) { a.fail(c, kindNoRoute.problem("")) }

// RestockSKU is not served yet.
func (a *api) RestockSKU(c *gin.Context, _ spec.SKUInPath, _ spec.RestockSKUParams) {
	a.fail(c, kindNoRoute.problem(""))
}

// ListLatePayments is not served yet.
func (a *api) ListLatePayments(c *gin.Context, _ spec.ListLatePaymentsParams) {
	a.fail(c, kindNoRoute.problem(""))
}
