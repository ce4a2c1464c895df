package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"flashsale/client/wire"
)

// StockEvent is a SKU's stock after a change.
type StockEvent = wire.StockEvent

const (
	// silence is how long a stream may say nothing. The service sends a comment
	// every few seconds; without one the connection is dead, whatever TCP thinks.
	silence = 30 * time.Second
	// maxEvent bounds a line of a stream.
	maxEvent = 64 << 10
)

var (
	errLoopEnded = errors.New("the loop has ended")
	errSilent    = errors.New("the stream has said nothing for " + silence.String())
)

// Watch follows the stock of one SKU, or of all for "": first as it is, then as it
// changes, until the loop or ctx ends. A stream that breaks is opened again, on the
// next replica: what changed in between is told as one change. A SKU's stock never
// goes back: an event that is not newer than the last is left out. ctx's error, or
// one that opening the stream again does not mend, is the last pair.
func (c *Client) Watch(ctx context.Context, sku string) iter.Seq2[StockEvent, error] {
	return func(yield func(StockEvent, error) bool) {
		newest := map[string]int64{}
		tell := func(event StockEvent) bool {
			if seq, known := newest[event.SKU]; known && event.Seq <= seq {
				return true
			}
			newest[event.SKU] = event.Seq
			return yield(event, nil)
		}
		for barren := 0; ; {
			told, err := c.follow(ctx, sku, tell)
			if barren++; told {
				barren = 0
			}
			switch {
			case errors.Is(err, errLoopEnded):
				return
			case err != nil && (ctx.Err() != nil || !errors.Is(err, errSilent) || barren >= c.maxTries):
				yield(StockEvent{}, err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(firstWait): // a replica that shuts down ends streams at once
			}
		}
	}
}

// follow opens one stream, with as many tries as any call has, and reads it until
// it breaks, which is no error once it has told something.
func (c *Client) follow(ctx context.Context, sku string, tell func(StockEvent) bool) (told bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer dog.Stop()
	at := c.at.Load()
	_, err = c.do(ctx, call{
		what: strings.TrimSpace("watch " + sku), reads: true, patient: true,
		send: func(ctx context.Context, replica *wire.Client) (*http.Response, error) {
			dog.Reset(silence)
			at = c.at.Load()
			if sku == "" {
				return replica.WatchSKUs(ctx)
			}
			return replica.WatchSKU(ctx, sku)
		},
		consume: func(body io.Reader) error {
			lines := bufio.NewScanner(body)
			lines.Buffer(nil, maxEvent)
			for lines.Scan() {
				dog.Reset(silence)
				text, ok := strings.CutPrefix(lines.Text(), "data:")
				if !ok {
					continue
				}
				var event StockEvent
				if err := json.Unmarshal([]byte(text), &event); err != nil {
					return err
				}
				told = true
				if !tell(event) {
					return errLoopEnded
				}
			}
			if told || ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &brokenOff{errors.Join(io.ErrUnexpectedEOF, lines.Err())}
		},
	}, nil)
	c.at.CompareAndSwap(at, at+1)
	return told, err
}
