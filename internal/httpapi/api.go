// Package httpapi is the service's HTTP face: routes, tokens, strict input, and
// answers in JSON, errors as RFC 9457's problem+json. It knows no SQL and no
// lock: what an order becomes is decided in package order.
package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Orders is what takes the orders. Errors are those of package order.
type Orders interface {
	Place(ctx context.Context, r order.Request) (order.Placed, error)
	Find(ctx context.Context, customer string, id order.ID) (order.Order, error)
	PutSKU(ctx context.Context, want stock.Stock, only order.Precondition) (got stock.Stock, created bool, err error)
}

// Catalog is where SKUs are read.
type Catalog interface {
	Get(ctx context.Context, sku string) (stock.Stock, error)
	List(ctx context.Context, after string, limit int) ([]stock.Stock, error)
}

// Config is what the API is made of. All of it is required, but for Audience,
// Audit, Locks, and one of JWTSecret and Keys.
type Config struct {
	Orders  Orders
	Catalog Catalog
	// Stock is what the audit reads, unless there is an Audit of its own.
	Stock *stock.DB
	Audit func(context.Context) (stock.Report, error)
	// Locks is nil where the strategy's lock cannot tell who holds it.
	Locks Locks
	// Ready says what keeps this replica from serving, by the name of the
	// server that does. It is called within readyTimeout.
	Ready func(ctx context.Context) map[string]error
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
	Registry   *prometheus.Registry
	Logger     *slog.Logger
}

// readyTimeout bounds a readiness check: a server that takes longer to answer
// one small question is not one to serve orders with.
const readyTimeout = 2 * time.Second

type api struct {
	cfg      Config
	verifier *verifier
	metrics  *metrics
}

// New returns the handler of all routes.
func New(cfg Config) (http.Handler, error) {
	gin.SetMode(gin.ReleaseMode)
	verifier, err := newVerifier(cfg.JWTSecret, cfg.Keys, cfg.Audience, cfg.AdminToken)
	if err != nil {
		return nil, err
	}
	a := &api{cfg: cfg, verifier: verifier, metrics: newMetrics(cfg.Registry)}
	if a.cfg.Audit == nil {
		a.cfg.Audit = func(ctx context.Context) (stock.Report, error) { return stock.Audit(ctx, cfg.Stock) }
	}
	r := gin.New()
	// gin trusts every proxy unless told otherwise.
	if err := r.SetTrustedProxies(nil); err != nil {
		return nil, fmt.Errorf("trusted proxies: %w", err)
	}
	r.HandleMethodNotAllowed = true
	r.Use(a.metrics.measure, func(c *gin.Context) { c.Header("X-Replica", cfg.Replica) }, a.recover)
	r.NoRoute(func(c *gin.Context) { a.fail(c, kindNoRoute.problem("")) })
	r.NoMethod(func(c *gin.Context) { a.fail(c, kindNoMethod.problem("See the Allow header.")) })

	r.GET("/healthz", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"status": "alive"}) })
	r.GET("/readyz", a.ready)
	r.GET("/metrics", gin.WrapH(promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{})))

	r.POST("/v1/orders", a.placeOrder)
	reads := r.Group("/v1", a.bounded)
	reads.GET("/orders/:id", a.getOrder)
	reads.GET("/skus", a.listSKUs)
	reads.GET("/skus/:sku", a.getSKU)

	admin := r.Group("/v1/admin", a.requireAdmin)
	admin.PUT("/skus/:sku", a.bounded, a.putSKU)
	admin.GET("/locks", a.bounded, a.listLocks)
	admin.DELETE("/locks/:sku", a.bounded, a.revokeLock)
	admin.GET("/audit", a.audit) // bounded by the caller's patience: it reads everything
	return r, nil
}

// bounded ends what a handler waits for at the request time-out.
func (a *api) bounded(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), a.cfg.RequestTimeout)
	defer cancel()
	c.Request = c.Request.WithContext(ctx)
	c.Next()
}

// ready answers 200 when every server that orders need answers. It names those
// that do not, and keeps their addresses and errors in the log.
func (a *api) ready(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), readyTimeout)
	defer cancel()
	status, text, checks := http.StatusOK, "ready", map[string]string{}
	for name, err := range a.cfg.Ready(ctx) {
		checks[name] = "ok"
		if err != nil {
			status, text, checks[name] = http.StatusServiceUnavailable, "not ready", "does not answer"
			a.cfg.Logger.Warn("not ready", "server", name, "error", err)
		}
	}
	a.metrics.isReady(status == http.StatusOK)
	c.JSON(status, gin.H{"status": text, "checks": checks})
}

func (a *api) audit(c *gin.Context) {
	// A large database takes longer than any other answer may. A connection
	// that knows no deadlines, as in a test, has none to lift.
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Time{})
	report, err := a.cfg.Audit(c.Request.Context())
	if err != nil {
		a.fail(c, fmt.Errorf("%w: %w", order.ErrUnavailable, err))
		return
	}
	c.JSON(http.StatusOK, report)
}

// recover answers 500 for a panic, which it logs.
func (a *api) recover(c *gin.Context) {
	defer func() {
		if p := recover(); p != nil {
			a.fail(c, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	c.Next()
}
