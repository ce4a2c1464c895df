package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/limit"
	"flashsale/internal/order"
)

const benchSecret = "a secret of the benchmarks"

func benchToken(b *testing.B) string {
	b.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "customer-1234567", "exp": 4102444800}).SignedString([]byte(benchSecret))
	if err != nil {
		b.Fatal(err)
	}
	return token
}

// BenchmarkToken measures the check of a customer's token.
func BenchmarkToken(b *testing.B) {
	token := benchToken(b)
	v, err := newVerifier(&Config{JWTSecret: []byte(benchSecret), AdminToken: "an admin token"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.verify(token); err != nil {
			b.Fatal(err)
		}
	}
}

// instantOrders accepts every order at once.
type instantOrders struct{ Orders }

func (instantOrders) Place(_ context.Context, r order.Request) (order.Placed, error) {
	now := time.Now().UTC()
	return order.Placed{Order: order.Order{ID: uuid.UUID{1}, SKU: r.SKU, Customer: r.Customer, Key: r.Key, Quantity: r.Quantity,
		PriceCents: 999, Currency: "EUR", Status: order.Reserved, CreatedAt: now, ExpiresAt: now.Add(time.Minute)}}, nil
}

// instantConfig is the configuration of a service that accepts every order at once.
func instantConfig() Config {
	return Config{Orders: instantOrders{}, RequestTimeout: time.Second, Replica: "replica-1", JWTSecret: []byte(benchSecret), AdminToken: "admin",
		Limits: new(limit.Limits), Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)}
}

// BenchmarkOrder measures the HTTP part of an order: its checks, its token and its
// answer, without the connection and the sale.
func BenchmarkOrder(b *testing.B) {
	handler, err := New(instantConfig())
	if err != nil {
		b.Fatal(err)
	}
	token := benchToken(b)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/v1/orders", strings.NewReader(`{"sku":"sale-1","quantity":1}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", "key-1234567")
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != http.StatusCreated {
			b.Fatal(w.Code, w.Body)
		}
	}
}

// BenchmarkObserve measures the metrics, the request id and the disabled access log
// of a request.
func BenchmarkObserve(b *testing.B) {
	a := &api{metrics: newMetrics(nil), cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	bare, observed := gin.New(), gin.New()
	observed.Use(a.metrics.measure, requestID, a.accessLog())
	for name, r := range map[string]*gin.Engine{"bare": bare, "observed": observed} {
		r.POST("/v1/orders", func(c *gin.Context) { c.Status(http.StatusCreated) })
		b.Run(name, func(b *testing.B) {
			request := httptest.NewRequest(http.MethodPost, "/v1/orders", http.NoBody)
			b.ReportAllocs()
			for b.Loop() {
				r.ServeHTTP(httptest.NewRecorder(), request)
			}
		})
	}
}
