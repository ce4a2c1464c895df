// Package httpapi is the service's HTTP face: routes, tokens, strict input, and
// answers in JSON, errors as RFC 9457's problem+json. It knows no SQL and no
// lock: what an order becomes is decided in package order.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
	"flashsale/internal/limit"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Orders is what takes the orders. Errors are those of package order.
type Orders interface {
	Place(ctx context.Context, r order.Request) (order.Placed, error)
	Find(ctx context.Context, customer string, id order.ID) (order.Order, error)
	List(ctx context.Context, customer string, before order.ID, limit int) ([]order.Order, error)
	Pay(ctx context.Context, customer string, id order.ID, reference string) (order.Order, error)
	Cancel(ctx context.Context, customer string, id order.ID) (order.Order, error)
	Restock(ctx context.Context, r order.RestockRequest) (order.Restocked, error)
	LatePayments(ctx context.Context, after order.LateCursor, limit int) ([]order.LatePayment, error)
	PutSKU(ctx context.Context, want stock.Stock, only order.Precondition) (got stock.Stock, created bool, err error)
	Forwarded() map[string]int
}

// Catalog is where SKUs are read.
type Catalog interface {
	Get(ctx context.Context, sku string) (stock.Stock, error)
	List(ctx context.Context, after string, limit int) ([]stock.Stock, error)
}

// Config is what the API is made of. All of it is required, but for Audience,
// Audit, Locks, Notes, what streams of events are made of, and one of JWTSecret
// and Keys.
type Config struct {
	Orders  Orders
	Catalog Catalog
	// Stock is what the audit reads, unless there is an Audit of its own.
	Stock *stock.DB
	Audit func(context.Context) (stock.Report, error)
	// View is what streams of events follow; nil where there is none, and they
	// all share one question to MySQL, or to Levels where that is given.
	View   View
	Levels func(context.Context) ([]stock.Level, error)
	// MaxStreams are open at the same time; 0 is 5000. MaxStreamsAddress of them
	// are of one address; 0 is a tenth, and at least 10. They end when Draining is
	// closed.
	MaxStreams, MaxStreamsAddress int
	Draining                      <-chan struct{}
	// Locks is nil where the strategy's lock cannot tell who holds it.
	Locks Locks
	// Ready says what keeps this replica from selling, by the name of the server
	// that does. It is called within readyTimeout. Readiness shows a Reason as it is,
	// and of another error only that the server does not answer. ReadyToRead is the
	// same of reads and payments; nil: they need what selling does.
	Ready, ReadyToRead func(ctx context.Context) map[string]error
	// Notes say by name what readiness shows beside that, and what does not keep
	// this replica from serving; "" is that all is well. Optional.
	Notes func() map[string]string
	// RequestTimeout bounds the reads; orders have a bound of their own.
	RequestTimeout time.Duration
	// Replica names this process in X-Replica.
	Replica string
	// JWTSecret is what HS256 tokens are signed with, and Keys are the public keys
	// of RS256 and ES256: exactly one of the two is given.
	JWTSecret  []byte
	Keys       *Keys
	Audience   string
	AdminToken string
	// Limits bound the rate of requests; nil sets no limit.
	Limits *limit.Limits
	// TrustedProxies are the addresses and networks of those whose X-Forwarded-For
	// is believed: nobody's, where there are none.
	TrustedProxies []string
	Registry       *prometheus.Registry
	// Traces makes spans of requests; nil makes none.
	Traces trace.TracerProvider
	Logger *slog.Logger
}

type api struct {
	cfg      Config
	verifier *verifier
	metrics  *metrics
	// operations are found by their method and gin's form of their path.
	operations map[route]*contract.Operation
	// skuName says what is wrong with the name of a SKU.
	skuName func(string) string
	// pageSize is how long a page is when the caller does not say.
	pageSize int
	events   *events
	// sample lets one 503 or 504 a second into the log.
	sample *rate.Limiter
}

type route struct{ method, path string }

// New returns the handler of all routes.
func New(cfg Config) (http.Handler, error) {
	a, err := newAPI(cfg)
	if err != nil {
		return nil, err
	}
	r, err := a.routes()
	if err != nil {
		return nil, err
	}
	return readable(r), nil
}

func newAPI(cfg Config) (*api, error) {
	gin.SetMode(gin.ReleaseMode)
	verifier, err := newVerifier(cfg.JWTSecret, cfg.Keys, cfg.Audience, cfg.AdminToken)
	if err != nil {
		return nil, err
	}
	a := &api{cfg: cfg, verifier: verifier, metrics: newMetrics(cfg.Registry), events: newEvents(&cfg), sample: rate.NewLimiter(rate.Every(time.Second), 1)}
	if a.cfg.Limits == nil {
		a.cfg.Limits = new(limit.Limits)
	}
	if a.cfg.Audit == nil {
		a.cfg.Audit = func(ctx context.Context) (stock.Report, error) { return stock.Audit(ctx, cfg.Stock) }
	}
	return a, a.readContract()
}

func (a *api) routes() (*gin.Engine, error) {
	r := gin.New()
	if err := trustProxies(r, a.cfg.TrustedProxies); err != nil {
		return nil, err
	}
	r.HandleMethodNotAllowed = true
	r.RedirectTrailingSlash = false // no answer of ours is a redirect
	r.UseRawPath = true             // an escaped slash is part of a name, and leads to no other route
	a.watch(r)
	r.Use(a.recover, secure, a.admit)
	r.NoRoute(func(c *gin.Context) { a.fail(c, kindNoRoute.problem("")) })
	r.NoMethod(a.noMethod)
	r.GET("/metrics", gin.WrapH(promhttp.HandlerFor(a.cfg.Registry, promhttp.HandlerOpts{})))
	// What the document says of an operation is checked in this order, the
	// cheapest first, and all of it before the handler.
	checked := r.Group("", a.limitAddress, a.authenticate, a.limitCustomer, a.checkParameters, a.readBody)
	spec.RegisterHandlersWithOptions(checked, a, spec.GinServerOptions{
		// admit and checkParameters leave nothing for it to complain of: the
		// document and its types differ.
		ErrorHandler: func(c *gin.Context, err error, _ int) {
			a.fail(c, fmt.Errorf("checked parameters could not be bound: %w", err))
		},
	})
	return r, errors.Join(a.serveDocs(r), a.serveStorefront(r), a.serveErrors(r))
}

// readContract reads the document that everything is checked by.
func (a *api) readContract() error {
	read, err := contract.Load(spec.YAML)
	if err != nil {
		return err
	}
	a.operations = map[route]*contract.Operation{}
	toGin := strings.NewReplacer("{", ":", "}", "")
	for _, o := range read.Operations {
		a.operations[route{o.Method, toGin.Replace(o.Path)}] = o
	}
	if a.skuName, err = read.Text("SKUName"); err != nil {
		return err
	}
	a.pageSize, err = read.Default("Limit")
	return err
}

// readable answers HEAD like GET; the server leaves the body out.
func readable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			get := *r // the server looks at r's method to leave the body out
			get.Method = http.MethodGet
			r = get.WithContext(context.WithValue(r.Context(), headKey{}, true))
		}
		next.ServeHTTP(w, r)
	})
}

// headKey is set in the context of a HEAD.
type headKey struct{}

func (a *api) noMethod(c *gin.Context) {
	// gin has set Allow to the methods that it routes.
	allow := c.Writer.Header().Get("Allow")
	if slices.Contains(strings.Split(allow, ", "), http.MethodGet) && !a.streams(pathOf(c)) {
		c.Header("Allow", allow+", "+http.MethodHead)
	}
	a.fail(c, kindNoMethod.problem("See the Allow header."))
}

// streams says whether GET answers this path with a stream, which has no HEAD.
func (a *api) streams(path string) bool {
	for _, o := range a.operations {
		if o.Streams() && o.Fits(path) {
			return true
		}
	}
	return false
}

// bounded is the request's context, which ends at the request time-out.
func (a *api) bounded(c *gin.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request.Context(), a.cfg.RequestTimeout)
}

// recover answers 500 for a panic, which it logs. Half an answer must not look
// like a whole one: then the connection ends.
func (a *api) recover(c *gin.Context) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		begun := c.Writer.Written()
		a.fail(c, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		if begun {
			panic(http.ErrAbortHandler)
		}
	}()
	c.Next()
}
