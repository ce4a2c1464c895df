package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Without any flag, a customer's loops of cancellations and of invented payments are limited.
func TestLoopsOfACustomerAreLimitedByDefault(t *testing.T) {
	t.Parallel()
	const most = 20 // in a minute
	c := start(t, replicaConfig(newDSN(t), "a", "conditional"))
	c.putSKU("lamp", 5)
	status, body, err := c.orderBody("lamp", "ann")
	if err != nil || status != http.StatusCreated {
		t.Fatalf("order: %d %s, %v", status, body, err)
	}
	path := c.URL + "/v1/orders/" + orderID(t, body)
	for _, loop := range []struct {
		call, policy string
		within       int
	}{{"cancellation", `"cancellations";q=20;w=60`, http.StatusOK}, {"payment", `"late-payments";q=20;w=60`, http.StatusConflict}} {
		for i := 0; ; i++ {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, path+"/"+loop.call, strings.NewReader(fmt.Sprintf(`{"reference":"%d"}`, i)))
			if err != nil {
				t.Fatal(err)
			}
			if loop.call == "cancellation" {
				request.Body = http.NoBody
			}
			request.Header.Set("Authorization", "Bearer "+customerToken(t, "ann"))
			response, err := c.http.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			policy := response.Header.Get("RateLimit-Policy")
			if i >= most && response.StatusCode == http.StatusTooManyRequests && strings.Contains(policy, loop.policy) {
				break
			}
			// More pass while the time of the loop refills the limit.
			if response.StatusCode != loop.within || i > 50*most {
				t.Fatalf("%s %d: got %d with %s; want %d for the first %d, and then 429 with %s", loop.call, i, response.StatusCode, policy, loop.within, most, loop.policy)
			}
		}
	}
}
