// Package client calls the flash-sale service from Go, on one or several replicas.
//
// The client retries a call that got no answer, or an answer that allows a retry.
// It tries the next replica, with exponential backoff and jitter, until the context
// ends or MaxTries is reached. Retries are safe: all tries of a call have the same
// idempotency key, or the call has no further effect when repeated. An order,
// payment, cancellation or restock is never applied twice.
//
// An error answer is a [*Problem]. Use errors.Is with its [Kind]:
//
//	placed, err := shop.Place(ctx, client.Purchase{SKU: "lamp", Quantity: 1})
//	switch {
//	case errors.Is(err, client.ErrSoldOut):
//		// Tell the buyer.
//	case errors.Is(err, client.ErrOutcomeUnknown):
//		// The order may exist: call Place again with the same key.
//	case err != nil:
//		// ...
//	}
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// Config configures a Client. Only URLs is required.
type Config struct {
	// URLs are the addresses of the replicas or of a proxy, like
	// http://shop.example:8080. Calls go to the replica that answered last.
	URLs []string
	// Token returns the token of each request, a customer's or an administrator's:
	// see StaticToken. Without one, only SKUs and their events can be read.
	Token func(context.Context) (string, error)
	// HTTP sends the requests. The default keeps enough idle connections for many
	// concurrent calls.
	HTTP *http.Client
	// MaxTries bounds the tries of one call. The default, 8, takes about five
	// seconds if connections are refused. 1 disables retries.
	MaxTries int
	// TryTimeout bounds each try of every call but Audit. The default, ten seconds, is
	// longer than a replica works on an order before it answers 503 or 504.
	TryTimeout time.Duration
}

const (
	defaultTries      = 8
	defaultTryTimeout = 10 * time.Second
	// idleConnections is per replica. With net/http's default of 2, a busy program
	// would open a connection for almost every call.
	idleConnections = 64
)

// StaticToken returns a Token function for a token that never changes.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// Client calls the service. It is safe for concurrent use.
type Client struct {
	replicas   []*url.URL
	token      func(context.Context) (string, error)
	http       *http.Client
	maxTries   int
	tryTimeout time.Duration
	// current is the replica that calls go to, modulo their number. It grows when
	// that replica fails.
	current atomic.Uint64
}

// New returns a Client. It sends no request.
func New(cfg Config) (*Client, error) {
	switch {
	case len(cfg.URLs) == 0:
		return nil, errors.New("client: URLs must not be empty")
	case cfg.MaxTries < 0 || cfg.TryTimeout < 0:
		return nil, fmt.Errorf("client: MaxTries (%d) and TryTimeout (%s) must not be negative", cfg.MaxTries, cfg.TryTimeout)
	}
	c := &Client{token: cfg.Token, http: cfg.HTTP, maxTries: cmp.Or(cfg.MaxTries, defaultTries),
		tryTimeout: cmp.Or(cfg.TryTimeout, defaultTryTimeout)}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = idleConnections
		c.http = &http.Client{Transport: transport}
	}
	for i, text := range cfg.URLs {
		replica, err := url.Parse(text + "/") // JoinPath needs a path
		if err != nil || replica.Scheme != "http" && replica.Scheme != "https" || replica.Host == "" {
			return nil, fmt.Errorf("client: URLs[%d] must be like http://shop.example:8080, not %q", i, text)
		}
		c.replicas = append(c.replicas, replica)
	}
	return c, nil
}
