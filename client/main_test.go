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

	"github.com/golang-jwt/jwt/v5"

	"flashsale/client"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

var shops atomic.Int32

// shop is the service, on a database of its own.
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

// theShop is a shop of one replica that tests share: they sell SKUs of their own.
// Its replica ends with this process.
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

// openShop is a shop of the test's own, with so many replicas.
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
		AdminToken: s.admin, JWTSecret: s.secret, // A slow order is no reason to try again, where tries are counted.
		Args: []string{"--lock-ttl=2s", "--log-level=warn", "--request-timeout=" + patience.String()},
	}
}

// as is a customer's client of the given addresses, or of all replicas.
func (s *shop) as(t *testing.T, customer string, urls ...string) *client.Client {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: customer}).SignedString([]byte(s.secret))
	if err != nil {
		t.Fatal(err)
	}
	return s.with(t, client.Config{URLs: urls, Token: client.StaticToken(token)})
}

// administrator is an administrator's client of the given addresses, or of all.
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
		cfg.MaxTries = 30 // a busy machine is slow to fail over
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

// sell puts a new SKU on sale, and returns its name.
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

// reserved are the units of a SKU that the audit finds reserved.
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

// proxy stands before a replica, and does something else to its first requests.
type proxy struct {
	url string
	// seen are the idempotency keys of all requests, in their order.
	seen chan string
}

// newProxy does first to as many requests as left says, then passes on.
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

// dropAnswer lets the replica serve the request, and breaks the connection
// instead of answering.
func dropAnswer(_ http.ResponseWriter, r *http.Request, pass http.Handler) {
	pass.ServeHTTP(&nowhere{header: http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

// nowhere is a writer that nobody reads.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}

// say answers with a status and a problem of that kind, and asks for a wait.
func say(status int, kind client.Kind, retryAfter string) func(http.ResponseWriter, *http.Request, http.Handler) {
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

// keys are those of all requests that have come.
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

// patience bounds what tests wait for on a busy machine.
const patience = 2 * time.Minute
