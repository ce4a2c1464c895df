package history

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

// start puts traffic on two replicas that answer by serve; a SKU is always created.
func start(ctx context.Context, t *testing.T, serve func(replica int, w http.ResponseWriter, r *http.Request)) *Traffic {
	t.Helper()
	var urls []string
	for i := range 2 {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusCreated)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client has gone
			serve(i, w, r)
		}))
		t.Cleanup(server.Close)
		urls = append(urls, server.URL)
	}
	load, err := Start(ctx, Config{URLs: urls, AdminToken: "admin", JWTSecret: "secret", Name: "lamp", Rate: 500, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return load
}

// TestUnansweredCallsAreRepeatedElsewhere also checks that net/http sends nothing on its
// own, as it does for requests with an Idempotency-Key.
func TestUnansweredCallsAreRepeatedElsewhere(t *testing.T) {
	var mu sync.Mutex
	seen := map[string][2]int{} // requests of each key, by replica
	var served atomic.Int64
	load := start(t.Context(), t, func(replica int, w http.ResponseWriter, r *http.Request) {
		n := int64(0)
		if r.Method == http.MethodPost {
			n = served.Add(1)
		}
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			mu.Lock()
			by := seen[key]
			by[replica]++
			seen[key] = by
			mu.Unlock()
		}
		switch {
		case replica == 0 && n%2 == 0:
			panic(http.ErrAbortHandler)
		case replica == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"type":"/errors/unavailable"}`)
		default:
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"id":%q}`, uuid.New())
		}
	})
	for end := time.Now().Add(time.Minute); served.Load() < 100 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	h := load.Stop()
	calls := 0
	for _, s := range h.sales {
		for _, c := range s.calls {
			if c.kind != Read {
				calls++
			}
		}
	}
	if n := int(served.Load()); n > calls || n < 100 {
		t.Errorf("the replicas served %d requests that change something, but %d were recorded", n, calls)
	}
	for key, by := range seen {
		if by[1] == 0 {
			t.Errorf("%s was sent to replica 1, which does not answer, %d times, and never to replica 2", key, by[0])
		}
	}
}

func TestTrafficEndsWithItsContext(t *testing.T) {
	t.Cleanup(func() { leaks.None(t) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := make(chan struct{}, 1)
	load := start(ctx, t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		select {
		case began <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	})
	sandboxtest.Await(t, began, "a request")
	cancel()
	at := time.Now()
	h := load.Stop()
	if took := time.Since(at); took > 2*time.Second {
		t.Errorf("Stop took %s after the end of the context", took)
	}
	if len(h.sales) == 0 {
		t.Error("the history is lost")
	}
}

func TestSKUThatExistsIsAnError(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	t.Cleanup(server.Close)
	_, err := Start(t.Context(), Config{URLs: []string{server.URL}, Name: "lamp", Rate: 1})
	if want := "put lamp-1 on sale: the SKU exists already; choose another Name"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
