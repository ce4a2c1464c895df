// Package client calls the flash-sale service from Go, on one replica or several.
//
// A call that was not answered, or was answered that it may be tried again, is
// tried again: on the next replica, after a growing wait with jitter, until the
// context ends or the tries are used up. Every try of a call that changes
// something carries the same idempotency key, or is one that the service takes
// once however often it comes. So an order is never made twice, whatever becomes
// of the connection; nor is a payment, a cancellation or a restock.
//
// An answer that is an error is a [*Problem]. What to do about it is decided by its
// [Kind], which errors.Is knows:
//
//	placed, err := shop.Place(ctx, client.Purchase{SKU: "lamp", Quantity: 1})
//	switch {
//	case errors.Is(err, client.ErrSoldOut):
//		// Too late.
//	case errors.Is(err, client.ErrOutcomeUnknown):
//		// The tries are used up, and it may stand: ask again with the same key.
//	case err != nil:
//		// ...
//	}
package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"flashsale/client/wire"
)

// Config is what a Client is made of. URLs are required.
type Config struct {
	// URLs are the replicas' addresses, or that of a proxy before them, like
	// http://shop.example:8080. A call goes to the one that last answered.
	URLs []string
	// Token yields the token of each request, a customer's or an administrator's:
	// see StaticToken. With none only SKUs can be read and watched.
	Token func(context.Context) (string, error)
	// HTTP sends the requests. Nil is a client of its own, which keeps enough
	// connections for many calls at a time.
	HTTP *http.Client
	// MaxTries of one call; 0 is 8, which with their waits take some five seconds
	// where connections are refused. 1 tries nothing again.
	MaxTries int
	// TryTimeout bounds each try, but not an audit, which reads everything. 0 is
	// ten seconds: longer than a replica works on an order before it answers 503
	// or 504, so that only one which cannot answer is given up.
	TryTimeout time.Duration
}

const (
	defaultTries      = 8
	defaultTryTimeout = 10 * time.Second
	// idleConnections of one replica are kept for the next calls. Go's own limit
	// of 2 would open and close one for almost every call of a busy program.
	idleConnections = 64
)

// StaticToken is a Token that never changes.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// Client calls the service. It is safe for concurrent use.
type Client struct {
	replicas   []*wire.Client
	maxTries   int
	tryTimeout time.Duration
	// at counts on when a replica does not serve; its remainder is the replica
	// that calls go to.
	at atomic.Uint64
}

// New makes a Client. It calls nobody yet.
func New(cfg Config) (*Client, error) {
	switch {
	case len(cfg.URLs) == 0:
		return nil, errors.New("client: URLs: there is none")
	case cfg.MaxTries < 0:
		return nil, fmt.Errorf("client: MaxTries must not be negative: %d", cfg.MaxTries)
	case cfg.TryTimeout < 0:
		return nil, fmt.Errorf("client: TryTimeout must not be negative: %s", cfg.TryTimeout)
	}
	c := &Client{maxTries: cfg.MaxTries, tryTimeout: cfg.TryTimeout}
	if c.maxTries == 0 {
		c.maxTries = defaultTries
	}
	if c.tryTimeout == 0 {
		c.tryTimeout = defaultTryTimeout
	}
	httpClient := cfg.HTTP
	if httpClient == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = idleConnections
		httpClient = &http.Client{Transport: transport}
	}
	for i, text := range cfg.URLs {
		if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("client: URLs[%d] must be like http://shop.example:8080, not %q", i, text)
		}
		replica, err := wire.NewClient(text, wire.WithHTTPClient(httpClient), wire.WithRequestEditorFn(authorize(cfg.Token)))
		if err != nil {
			return nil, fmt.Errorf("client: URLs[%d]: %w", i, err)
		}
		c.replicas = append(c.replicas, replica)
	}
	return c, nil
}

func authorize(token func(context.Context) (string, error)) wire.RequestEditorFn {
	return func(ctx context.Context, req *http.Request) error {
		if token == nil {
			return nil
		}
		text, err := token(ctx)
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+text)
		return nil
	}
}
