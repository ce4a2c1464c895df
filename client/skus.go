package client

import (
	"context"
	"iter"
	"net/http"

	"flashsale/client/wire"
)

// SKU is one sellable item, and what is left of it.
type SKU = wire.SKU

// ETag is a SKU's state at a time: see IfMatch.
type ETag string

// SKUs goes through all SKUs in the order of their names. It reads a page at a
// time, as far as the loop goes. An error is its last pair.
func (c *Client) SKUs(ctx context.Context) iter.Seq2[SKU, error] {
	return pages(func(cursor *string) ([]SKU, *string, error) {
		var page wire.SKUList
		_, err := c.do(ctx, call{what: "list SKUs", reads: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
			return at.ListSKUs(ctx, &wire.ListSKUsParams{Limit: &pageSize, Cursor: cursor})
		}}, &page)
		return page.Items, page.NextCursor, err
	})
}

// uncompressed keeps proxies from compressing an answer, whose ETag they would make
// weak or add to: IfMatch could not be had with it.
func uncompressed(_ context.Context, req *http.Request) error {
	req.Header.Set("Accept-Encoding", "identity")
	return nil
}

// SKU reads one SKU.
func (c *Client) SKU(ctx context.Context, name string) (SKU, ETag, error) {
	var sku SKU
	got, err := c.do(ctx, call{what: "read SKU " + name, reads: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.GetSKU(ctx, name, nil, uncompressed)
	}}, &sku)
	if err != nil {
		return SKU{}, "", err
	}
	return sku, ETag(got.header.Get("ETag")), nil
}
