package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
)

// BenchmarkToken is what a customer's token costs to check.
func BenchmarkToken(b *testing.B) {
	secret := []byte("a secret of the benchmarks")
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "customer-1234567", "exp": 4102444800}).SignedString(secret)
	if err != nil {
		b.Fatal(err)
	}
	v, err := newVerifier(secret, nil, "", "an admin token")
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

// BenchmarkDecode is what an order's body and key cost to read.
func BenchmarkDecode(b *testing.B) {
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	b.ReportAllocs()
	for b.Loop() {
		c.Request = httptest.NewRequest(http.MethodPost, "/v1/orders", strings.NewReader(`{"sku":"sale-1","quantity":1}`))
		c.Request.Header.Set("Content-Type", "application/json")
		c.Request.Header.Set("Idempotency-Key", "key-1234567")
		var body orderRequest
		if err := decode(c, &body); err != nil {
			b.Fatal(err)
		}
		if _, err := idempotencyKey(c); err != nil {
			b.Fatal(err)
		}
	}
}
