package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/stock"
)

// eventPause bounds how often one stream looks at the stock.
const eventPause = 50 * time.Millisecond

// WatchSKU streams one SKU's stock: as it is now, and as it changes.
func (a *api) WatchSKU(c *gin.Context, sku spec.SKUInPath) {
	if a.skuName(sku) != "" {
		a.fail(c, stock.ErrUnknownSKU)
		return
	}
	a.stream(c, func() ([]stock.Stock, error) {
		one, err := a.cfg.Catalog.Get(c.Request.Context(), sku)
		return []stock.Stock{one}, err
	})
}

// WatchSKUs streams the stock of all SKUs.
func (a *api) WatchSKUs(c *gin.Context) {
	a.stream(c, func() (all []stock.Stock, err error) {
		const page = 200
		for after := ""; ; after = all[len(all)-1].SKU {
			list, err := a.cfg.Catalog.List(c.Request.Context(), after, page)
			all = append(all, list...)
			if err != nil || len(list) < page {
				return all, err
			}
		}
	})
}

func (a *api) stream(c *gin.Context, read func() ([]stock.Stock, error)) {
	seen := map[string]uint64{}
	for {
		all, err := read()
		switch {
		case err != nil && !c.Writer.Written():
			a.fail(c, unavailable(err))
			return
		case err != nil:
			return // the client opens it again
		}
		// A stream outlives the time that an answer may take.
		_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(a.cfg.RequestTimeout))
		c.Header("Content-Type", "text/event-stream")
		for _, s := range all {
			if last, known := seen[s.SKU]; known && last == s.Seq {
				continue
			}
			seen[s.SKU] = s.Seq
			data, err := json.Marshal(spec.StockEvent{SKU: s.SKU, Units: s.Units, Available: s.Available, Seq: int64(s.Seq)})
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(c.Writer, "event: stock\nid: %d\ndata: %s\n\n", s.Seq, data); err != nil {
				return
			}
		}
		c.Writer.Flush()
		select {
		case <-c.Request.Context().Done():
			return
		case <-time.After(eventPause):
		}
	}
}
