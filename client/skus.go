package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"flashsale/client/wire"
)

// The types of what is on sale, generated from the OpenAPI document.
type (
	// SKU is a sellable item and its stock.
	SKU = wire.SKU
	// StockEvent is a SKU's stock after a change. Gone is set if the SKU is no longer listed.
	StockEvent = wire.StockEvent
)

// ETag identifies a version of a SKU: see IfMatch.
type ETag string

// SKUs lists the SKUs that are announced and not withdrawn, sorted by name. It reads pages as the loop proceeds. The last
// pair has an error if reading failed.
func (c *Client) SKUs(ctx context.Context) iter.Seq2[SKU, error] {
	return list[SKU](ctx, c, "list SKUs", func(cursor *string) (*http.Request, error) {
		return wire.NewListSKUsRequest(anyReplica, &wire.ListSKUsParams{Limit: &pageSize, Cursor: cursor})
	})
}

// uncompressed makes a request ask proxies not to compress the answer: they would
// change its ETag, and IfMatch would fail.
func uncompressed(request *http.Request, err error) (*http.Request, error) {
	if err == nil {
		request.Header.Set("Accept-Encoding", "identity")
	}
	return request, err
}

// SKU reads one SKU.
func (c *Client) SKU(ctx context.Context, name string) (sku SKU, etag ETag, err error) {
	request, err := wire.NewGetSKURequest(anyReplica, name, nil)
	return c.readSKU(ctx, name, request, err)
}

func (c *Client) readSKU(ctx context.Context, name string, request *http.Request, err error) (sku SKU, etag ETag, _ error) {
	got, err := c.do(ctx, call{what: "read SKU " + name, reads: true}.with(uncompressed(request, err)), &sku)
	if err != nil {
		return SKU{}, "", err
	}
	return sku, ETag(got.header.Get("ETag")), nil
}

const (
	// silence is the longest pause of a working stream: the service sends a
	// heartbeat every few seconds.
	silence = 30 * time.Second
	// maxEvent bounds a line of a stream.
	maxEvent = 64 << 10
)

var (
	errLoopEnded = errors.New("the loop has ended")
	errSilent    = errors.New("no data for " + silence.String())
)

// Watch yields the current stock of one SKU, or of all SKUs for "", and then each
// change, until the loop or ctx ends. When a stream breaks, Watch opens another on
// the next replica; the changes in between become one event. It skips events that
// are not newer than the last of the same SKU. The event of a SKU that is no longer listed
// may be lost with a stream: see SKUs. The last pair has ctx's error, or an error of opening
// a stream that a retry does not fix.
func (c *Client) Watch(ctx context.Context, sku string) iter.Seq2[StockEvent, error] {
	return func(yield func(StockEvent, error) bool) {
		newest := map[string]int64{}
		onEvent := func(event StockEvent) bool {
			if event.Gone != nil && *event.Gone {
				delete(newest, event.SKU) // it may be listed again with the same seq
				return yield(event, nil)
			}
			if seq, seen := newest[event.SKU]; seen && event.Seq <= seq {
				return true
			}
			newest[event.SKU] = event.Seq
			return yield(event, nil)
		}
		for silentStreams := 0; ; {
			received, err := c.follow(ctx, sku, onEvent)
			if silentStreams++; received {
				silentStreams = 0
			}
			switch {
			case errors.Is(err, errLoopEnded):
				return
			case err != nil && (ctx.Err() != nil || !errors.Is(err, errSilent) || silentStreams >= c.maxTries):
				yield(StockEvent{}, err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(firstWait): // a draining replica ends streams immediately
			}
		}
	}
}

// follow opens one stream, with retries, and reads it until it breaks. That is not
// an error if an event was received.
func (c *Client) follow(ctx context.Context, sku string, onEvent func(StockEvent) bool) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer timer.Stop()
	current := c.current.Load()
	request, err := wire.NewWatchSKUsRequest(anyReplica)
	if sku != "" {
		request, err = wire.NewWatchSKURequest(anyReplica, sku)
	}
	_, err = c.do(ctx, call{
		what: strings.TrimSpace("watch " + sku), reads: true, unbounded: true,
		begin: func() {
			timer.Reset(silence)
			current = c.current.Load()
		},
		consume: func(body io.Reader) error {
			lines := bufio.NewScanner(body)
			lines.Buffer(nil, maxEvent)
			known := false // later versions may send other kinds of events
			for lines.Scan() {
				timer.Reset(silence)
				if kind, ok := strings.CutPrefix(lines.Text(), "event:"); ok {
					kind = strings.TrimSpace(kind)
					known = kind == "stock" || kind == "gone"
				}
				text, ok := strings.CutPrefix(lines.Text(), "data:")
				if !ok || !known {
					continue
				}
				var event StockEvent
				if err := json.Unmarshal([]byte(text), &event); err != nil {
					return err
				}
				received = true
				if !onEvent(event) {
					return errLoopEnded
				}
			}
			if received || ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w: %w", errIncomplete, cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
		},
	}.with(request, err), nil)
	c.current.CompareAndSwap(current, current+1)
	return received, err
}
