package client_test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/client"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

var shops atomic.Int32

// shop is the service on a database of its own.
type shop struct {
	dsn           string
	admin, secret string
	replicas      []*sandbox.Replica
	urls          []string
}

var (
	commonMu sync.Mutex
	common   *shop
)

// theShop returns a shop with one replica that tests share; each sells its own SKUs.
// The replica ends with this process.
func theShop(t *testing.T) *shop {
	t.Helper()
	commonMu.Lock()
	defer commonMu.Unlock()
	if common == nil {
		s := newShop(t)
		cfg := s.config(0)
		cfg.Program = sandboxtest.Build(t, "api")
		r, err := sandbox.StartReplica(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.replicas, s.urls = []*sandbox.Replica{r}, []string{r.URL}
		common = s
	}
	return common
}

func newShop(t *testing.T) *shop {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("client%d", shops.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return &shop{dsn: dsn, admin: sandbox.Secret(), secret: sandbox.Secret()}
}

// openShop starts a shop for one test.
func openShop(t *testing.T, replicas int) *shop {
	t.Helper()
	s := newShop(t)
	for i := range replicas {
		r := sandboxtest.StartReplica(t, s.config(i))
		s.replicas, s.urls = append(s.replicas, r), append(s.urls, r.URL)
	}
	return s
}

func (s *shop) config(i int) sandbox.ReplicaConfig {
	return sandbox.ReplicaConfig{
		Replica: fmt.Sprintf("replica-%d", i+1), MySQLDSN: s.dsn, EtcdEndpoints: servers.EtcdEndpoints(),
		AdminToken: s.admin, JWTSecret: s.secret, // The long timeout avoids retries: tests count tries.
		Args: []string{"--lock-ttl=2s", "--log-level=warn", "--request-timeout=" + patience.String()},
	}
}

// as returns a customer's client for the given URLs, or for all replicas.
func (s *shop) as(t *testing.T, customer string, urls ...string) *client.Client {
	t.Helper()
	token := sandboxtest.Token(t, s.secret, map[string]any{"sub": customer})
	return s.with(t, client.Config{URLs: urls, Token: client.StaticToken(token)})
}

// administrator returns an administrator's client for the given URLs, or for all.
func (s *shop) administrator(t *testing.T, urls ...string) *client.Client {
	t.Helper()
	return s.with(t, client.Config{URLs: urls, Token: client.StaticToken(s.admin)})
}

func (s *shop) with(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	if len(cfg.URLs) == 0 {
		cfg.URLs = s.urls
	}
	if cfg.MaxTries == 0 {
		cfg.MaxTries = 30 // a take-over is slow on a busy machine
	}
	if cfg.TryTimeout == 0 {
		cfg.TryTimeout = patience
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sell creates a SKU, and returns its name.
func (s *shop) sell(t *testing.T, units int64) string {
	t.Helper()
	sku := newSKU()
	put, err := s.administrator(t).PutSKU(t.Context(), sku, lamp(units), client.Precondition{})
	if err != nil || !put.Created {
		t.Fatalf("created %v, error %v", put.Created, err)
	}
	return sku
}

var skus atomic.Int32

func newSKU() string { return fmt.Sprintf("lamp-%d", skus.Add(1)) }

func lamp(units int64) client.SKURequest {
	return client.SKURequest{Name: "A lamp", PriceCents: 999, Currency: "EUR", Units: units}
}

// reserved returns the SKU's reserved units, from the audit.
func (s *shop) reserved(t *testing.T, sku string) int64 {
	t.Helper()
	report, err := s.administrator(t).Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !report.Ok {
		t.Errorf("audit: %+v", report.Violations)
	}
	for _, b := range report.Skus {
		if b.SKU == sku {
			return b.Reserved
		}
	}
	t.Fatalf("the audit has no %s", sku)
	return 0
}

// proxy is a reverse proxy that handles its first requests differently.
type proxy struct {
	url string
	// seen has the idempotency keys of all requests, in order.
	seen chan string
}

// newProxy calls first for as many requests as left says, then forwards.
func newProxy(t *testing.T, target string, left int32, first func(w http.ResponseWriter, r *http.Request, pass http.Handler)) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(u)
	p := &proxy{seen: make(chan string, 1000)}
	var n atomic.Int32
	n.Store(left)
	p.url = serve(t, func(w http.ResponseWriter, r *http.Request) {
		p.seen <- r.Header.Get("Idempotency-Key")
		if n.Add(-1) >= 0 {
			first(w, r, pass)
			return
		}
		pass.ServeHTTP(w, r)
	})
	return p
}

// dropAnswer forwards the request, and breaks the connection instead of answering.
func dropAnswer(_ http.ResponseWriter, r *http.Request, pass http.Handler) {
	pass.ServeHTTP(&discard{header: http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

// discard is a ResponseWriter that discards the answer.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header       { return d.header }
func (*discard) Write(b []byte) (int, error) { return len(b), nil }
func (*discard) WriteHeader(int)             {}

// answer answers with a status, a problem of a kind, and Retry-After.
func answer(status int, kind client.Kind, retryAfter string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		if kind != "" {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		w.WriteHeader(status)
		if kind != "" {
			fmt.Fprintf(w, `{"type":"/errors/%s","title":"T","status":%d}`, kind, status)
		}
	}
}

// keys returns the keys of all requests so far.
func (p *proxy) keys() []string {
	var all []string
	for {
		select {
		case key := <-p.seen:
			all = append(all, key)
		default:
			return all
		}
	}
}

// patience bounds every wait of the tests.
const patience = 2 * time.Minute
