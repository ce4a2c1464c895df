package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

// maxReference is the longest payment reference in bytes, which the document
// cannot count.
const maxReference = 255

// ListOrders pages through the caller's own orders, the newest first.
func (a *api) ListOrders(c *gin.Context, params spec.ListOrdersParams) {
	before, err := readCursor(params.Cursor, parseOrderPlace)
	if err != nil {
		a.fail(c, err)
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	limit := a.limit(params.Limit)
	list, err := a.cfg.Orders.List(ctx, callOf(c).customer, before, limit+1)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	var answer spec.OrderList
	list, answer.NextCursor = nextPage(list, limit, orderPlace)
	answer.Items = make([]spec.Order, len(list))
	for i := range list {
		answer.Items[i] = present(&list[i])
	}
	c.JSON(http.StatusOK, answer)
}

// PayOrder pays one of the caller's own orders.
func (a *api) PayOrder(c *gin.Context, text spec.OrderID) {
	id, err := parseOrderID(text)
	if err != nil {
		a.fail(c, err)
		return
	}
	var body spec.PaymentRequest
	if err := callOf(c).decode(&body); err != nil {
		a.fail(c, err)
		return
	}
	reference := ""
	if body.Reference != nil {
		reference = *body.Reference
	}
	if len(reference) > maxReference {
		a.fail(c, kindInvalid.problem("See errors for each field.",
			fieldError{Field: "reference", Message: fmt.Sprintf("must have at most %d bytes", maxReference)}))
		return
	}
	o, err := a.cfg.Orders.Pay(c.Request.Context(), callOf(c).customer, id, reference)
	a.answerOrder(c, &o, err)
}

// CancelOrder cancels one of the caller's own orders.
func (a *api) CancelOrder(c *gin.Context, text spec.OrderID) {
	id, err := parseOrderID(text)
	if err != nil {
		a.fail(c, err)
		return
	}
	o, err := a.cfg.Orders.Cancel(c.Request.Context(), callOf(c).customer, id)
	if errors.Is(err, order.ErrAlreadyPaid) {
		err = kindAlreadyPaid.problem("Nothing of it was changed. Paid orders are not cancelled: a refund is the shop's decision.")
	}
	a.answerOrder(c, &o, err)
}

func (a *api) answerOrder(c *gin.Context, o *order.Order, err error) {
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, present(o))
}

// ListLatePayments pages through the payments that bought nothing, the oldest
// first.
func (a *api) ListLatePayments(c *gin.Context, params spec.ListLatePaymentsParams) {
	after, err := readCursor(params.Cursor, parseLatePlace)
	if err != nil {
		a.fail(c, err)
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	limit := a.limit(params.Limit)
	list, err := a.cfg.Orders.LatePayments(ctx, after, limit+1)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	var answer spec.LatePaymentList
	list, answer.NextCursor = nextPage(list, limit, latePlace)
	answer.Items = make([]spec.LatePayment, len(list))
	for i, p := range list {
		answer.Items[i] = spec.LatePayment{OrderID: p.OrderID, Customer: p.Customer, Reference: p.Reference, ReceivedAt: p.ReceivedAt}
	}
	c.JSON(http.StatusOK, answer)
}
