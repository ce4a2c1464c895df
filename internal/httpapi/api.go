// Package httpapi is the service's HTTP API: routes, authentication, strict input
// checks, and answers in JSON. Errors are application/problem+json (RFC 9457). It
// contains no SQL and no locks: package order decides what happens to an order.
package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
	"flashsale/internal/limit"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/telemetry"
)

// Orders places and changes orders. It returns the errors of package order.
type Orders interface {
	Place(ctx context.Context, r order.Request) (order.Placed, error)
	Find(ctx context.Context, customer string, id order.ID) (order.Order, error)
	List(ctx context.Context, customer string, before order.ID, limit int) ([]order.Order, error)
	ListOf(ctx context.Context, sku string, after order.SKUCursor, limit int) ([]order.Order, error)
	Lookup(ctx context.Context, id order.ID) (order.Order, error)
	Pay(ctx context.Context, p order.Payment) (order.Order, error)
	Cancel(ctx context.Context, customer string, id order.ID) (order.Order, error)
	Restock(ctx context.Context, r order.RestockRequest) (order.Restocked, error)
	LatePayments(ctx context.Context, after order.LateCursor, limit int) ([]order.LatePayment, error)
	PutSKU(ctx context.Context, want stock.Stock, only order.Precondition) (got stock.Stock, created bool, err error)
	Withdraw(ctx context.Context, sku string, only order.Precondition) error
	Forwarded() map[string]int
}

// Catalog reads the SKUs that are listed.
type Catalog interface {
	Get(ctx context.Context, sku string) (stock.Stock, error)
	List(ctx context.Context, after string, limit int) ([]stock.Stock, error)
}

// Config configures the API. Every field is required unless its comment says
// otherwise.
type Config struct {
	Orders  Orders
	Catalog Catalog
	// Stock is the database that administrators, the trail of their calls, and the default
	// Audit and Levels, read.
	Stock *stock.DB
	// Audit is optional; the default audits Stock.
	Audit func(context.Context) (stock.Report, error)
	// View feeds the event streams. Without one, all streams share a poll of
	// Levels, which defaults to Stock's.
	View   View
	Levels func(context.Context) ([]stock.Level, error)
	// MaxStreams bounds the open event streams; 0 means 5000. MaxStreamsAddress
	// bounds those of one address; 0 means a tenth of MaxStreams, at least 10.
	MaxStreams, MaxStreamsAddress int
	// Draining ends all event streams when it is closed. Optional.
	Draining <-chan struct{}
	// Locks is nil if the strategy's lock cannot report its holders.
	Locks Locks
	// Ready returns an error for each server that prevents this replica from
	// selling. /readyz shows the text of a Reason only. ReadyToRead is the same for
	// reads and payments; nil means Ready.
	Ready, ReadyToRead func(ctx context.Context) map[string]error
	// Notes adds checks to /readyz that never fail it; "" means ok. Optional.
	Notes func() map[string]string
	// RequestTimeout bounds reads; package order bounds changes itself.
	RequestTimeout time.Duration
	// Replica is this process's name in X-Replica.
	Replica string
	// Exactly one of JWTSecret (HS256) and Keys (RS256, ES256) must be set.
	JWTSecret []byte
	Keys      *Keys
	// Audience is required in every token's aud, Issuer is its iss, and TokenType its
	// header's typ. Optional.
	Audience, Issuer, TokenType string
	AdminToken                  string
	// PaymentService is set if only tokens with scope payment confirm payments, and not
	// the customers' own. Optional.
	PaymentService bool
	// TestMode makes reserved idempotency keys provoke answers: see provocations.
	// Optional.
	TestMode bool
	// Limits bounds the rate of requests. Optional.
	Limits *limit.Limits
	// TrustedProxies are the addresses and networks whose X-Forwarded-For is
	// trusted. Optional.
	TrustedProxies []string
	// IPv6Prefix is the length of the IPv6 network that counts as one address; 0 means
	// limit.DefaultIPv6Prefix.
	IPv6Prefix int
	Registry   *prometheus.Registry
	// Traces creates a span for each request. Optional.
	Traces trace.TracerProvider
	Logger *slog.Logger
}

type api struct {
	cfg        Config
	verifier   *verifier
	callers    limit.Callers
	metrics    *metrics
	contract   *contract.Contract
	operations map[route]*contract.Operation
	// checkSKU returns what is wrong with a SKU's name, or "".
	checkSKU func(string) string
	// pageSize is the default length of a page.
	pageSize int
	feeds    *feeds
	tries    tries
	// sample allows one log line a second about answers 503 and 504.
	sample *rate.Limiter
	// refusals bounds the log lines about refused administrators' calls other than counted
	// guesses, guesses those about counted ones. unlogged counts what both left out since the
	// last such line.
	refusals, guesses rate.Sometimes
	unlogged          atomic.Int64
	// notReady bounds the log lines about each server that is not ready.
	notReady notReady
}

// route is a method and a path in gin's form: /v1/skus/:sku.
type route struct{ method, path string }

// New returns the handler of all routes.
func New(cfg Config) (http.Handler, error) {
	a, err := newAPI(cfg)
	if err != nil {
		return nil, err
	}
	r, err := a.routes()
	return headAsGet(r), err
}

func newAPI(cfg Config) (*api, error) {
	gin.SetMode(gin.ReleaseMode)
	verifier, err := newVerifier(&cfg)
	if err != nil {
		return nil, err
	}
	callers, err := limit.NewCallers(cfg.TrustedProxies, cfg.IPv6Prefix)
	if err != nil {
		return nil, fmt.Errorf("trusted proxies: %w", err)
	}
	cfg.Limits = cmp.Or(cfg.Limits, new(limit.Limits))
	if cfg.Audit == nil {
		cfg.Audit = func(ctx context.Context) (stock.Report, error) { return stock.Audit(ctx, cfg.Stock) }
	}
	a := &api{cfg: cfg, verifier: verifier, callers: callers, metrics: newMetrics(cfg.Registry), feeds: newFeeds(&cfg),
		sample:   rate.NewLimiter(rate.Every(time.Second), 1),
		refusals: rate.Sometimes{First: infoBurst, Interval: time.Second / infoRate},
		guesses:  rate.Sometimes{First: guessBurst, Interval: time.Second / guessRate}}
	cfg.Registry.MustRegister(telemetry.Ready(a.canSell))
	return a, a.readContract()
}

func (a *api) routes() (*gin.Engine, error) {
	r := gin.New()
	if err := r.SetTrustedProxies(nil); err != nil { // see clientAddress
		return nil, err
	}
	r.HandleMethodNotAllowed = true
	r.RedirectTrailingSlash = false
	r.UseRawPath = true // an escaped slash is part of a name, not a separator
	r.Use(a.metrics.measure)
	if a.cfg.Traces != nil {
		r.Use(otelgin.Middleware("flashsale", otelgin.WithTracerProvider(a.cfg.Traces), otelgin.WithPropagators(propagation.TraceContext{}),
			otelgin.WithFilter(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/") })), a.nameClient)
	}
	r.Use(requestID, a.accessLog(), a.trail, a.recover, secure, a.admit)
	r.NoRoute(func(c *gin.Context) { a.fail(c, kindNoRoute.problem("")) })
	r.NoMethod(a.noMethod)
	r.GET("/metrics", gin.WrapH(promhttp.HandlerFor(a.cfg.Registry, promhttp.HandlerOpts{})))
	// The checks run in this order, the cheapest first, all before the handler.
	checked := r.Group("", a.limitAddress, a.authenticate, a.limitCustomer, a.checkParameters, a.checkBody, a.traceChange)
	spec.RegisterHandlersWithOptions(checked, a, spec.GinServerOptions{
		// After the checks, an error means that document and generated types differ.
		ErrorHandler: func(c *gin.Context, err error, _ int) {
			a.fail(c, fmt.Errorf("bind checked parameters: %w", err))
		},
	})
	return r, errors.Join(a.servePages(r), a.serveErrors(r))
}

// readContract reads the OpenAPI document that requests are checked against.
func (a *api) readContract() error {
	read, err := contract.Load(spec.YAML)
	if err != nil {
		return err
	}
	a.contract, a.operations = read, map[route]*contract.Operation{}
	toGin := strings.NewReplacer("{", ":", "}", "")
	for _, o := range read.Operations {
		a.operations[route{o.Method, toGin.Replace(o.Path)}] = o
	}
	if a.checkSKU, err = read.Text("SKUName"); err != nil {
		return err
	}
	a.pageSize, err = read.Default("Limit")
	return err
}

// headAsGet handles HEAD as GET.
func headAsGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			get := *r // a copy: net/http omits the body by r's method
			get.Method = http.MethodGet
			r = get.WithContext(context.WithValue(r.Context(), headKey{}, true))
		}
		next.ServeHTTP(w, r)
	})
}

// headKey marks the context of a HEAD request.
type headKey struct{}

func (a *api) noMethod(c *gin.Context) {
	// gin has set Allow to the methods of the path's routes.
	allow := c.Writer.Header().Get("Allow")
	o, _ := a.contract.Find(http.MethodGet, pathOf(c))
	if slices.Contains(strings.Split(allow, ", "), http.MethodGet) && (o == nil || !o.Streams()) {
		c.Header("Allow", allow+", "+http.MethodHead)
	}
	a.fail(c, kindNoMethod.problem("See the Allow header."))
}

// apiPolicy forbids a browser that displays an answer to load or run anything, or to
// frame it.
const apiPolicy = "default-src 'none'; frame-ancestors 'none'"

// securityHeaders are set on every answer. They are shared: never change a value in
// place.
var securityHeaders = http.Header{
	"X-Content-Type-Options":  {"nosniff"},
	"Referrer-Policy":         {"no-referrer"},
	"Content-Security-Policy": {apiPolicy},
	"Cache-Control":           {"no-store"},
	// Other origins cannot embed an answer.
	"Cross-Origin-Resource-Policy": {"same-origin"},
}

// secure sets the headers for browsers and caches; servePage and notModified relax
// them. There are no CORS headers: a storefront of another origin calls its own server,
// or runs behind the same proxy.
func secure(c *gin.Context) {
	maps.Copy(c.Writer.Header(), securityHeaders)
	if c.Request.TLS != nil {
		c.Header("Strict-Transport-Security", "max-age=31536000") // TLS only, for a year
	}
}

// serve runs a handler and sends what it returns: a JSON body with the status set
// on c, or the problem for its error. A nil body sends the status alone.
func (a *api) serve(c *gin.Context, handle func(ctx context.Context) (body any, err error)) {
	body, err := handle(c.Request.Context())
	switch {
	case err != nil:
		a.fail(c, err)
	case body != nil:
		c.JSON(c.Writer.Status(), body)
	}
}

// serveBounded is serve within the request timeout. It turns unexpected errors
// into 503: nothing was applied.
func (a *api) serveBounded(c *gin.Context, handle func(ctx context.Context) (body any, err error)) {
	a.serve(c, func(ctx context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout)
		defer cancel()
		body, err := handle(ctx)
		return body, unavailable(err)
	})
}

// unavailable marks an unexpected error of a read as order.ErrUnavailable: the
// database did not answer.
func unavailable(err error) error {
	if err == nil || problemOf(err).Status != http.StatusInternalServerError {
		return err
	}
	return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
}

// recover logs a panic and answers 500, or breaks the connection if part of an answer
// was already sent.
func (a *api) recover(c *gin.Context) {
	defer func() {
		if p := recover(); p != nil {
			written := c.Writer.Written()
			a.fail(c, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			if written {
				panic(http.ErrAbortHandler)
			}
		}
	}()
	c.Next()
}
