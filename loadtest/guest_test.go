package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// balancer passes requests to replicas in turn.
type balancer struct {
	proxies []*httputil.ReverseProxy
	turn    atomic.Int64
	// noWithdrawal, noList: it refuses these calls, like a service that has none.
	noWithdrawal, noList bool
	// ordered, if set, is called after so many orders.
	after   int64
	ordered func()

	orders            atomic.Int64
	mu                sync.Mutex
	onSale, withdrawn []string
}

func newBalancer(t *testing.T, replicas []string) (*balancer, string) {
	t.Helper()
	b := &balancer{}
	for _, replica := range replicas {
		u, err := url.Parse(replica)
		if err != nil {
			t.Fatal(err)
		}
		b.proxies = append(b.proxies, httputil.NewSingleHostReverseProxy(u))
	}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return b, server.URL
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodDelete:
		b.note(&b.withdrawn, r)
		if b.noWithdrawal {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
	case http.MethodGet:
		if b.noList && r.URL.Path == "/v1/admin/orders" {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
	case http.MethodPut:
		b.note(&b.onSale, r)
	case http.MethodPost:
		if b.orders.Add(1) == b.after {
			b.ordered()
		}
	}
	b.proxies[b.turn.Add(1)%int64(len(b.proxies))].ServeHTTP(w, r)
}

func (b *balancer) note(list *[]string, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*list = append(*list, r.URL.Path)
}

// checkWithdrawn checks that each SKU that was put on sale was withdrawn, and that a replica
// no longer shows the first.
func (b *balancer) checkWithdrawn(t *testing.T, replica string, least int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.onSale)
	slices.Sort(b.withdrawn)
	if len(b.onSale) < least || !slices.Equal(b.onSale, b.withdrawn) {
		t.Fatalf("put on sale: %v, want at least %d\nwithdrawn: %v", b.onSale, least, b.withdrawn)
	}
	service := attack.Service{URL: replica}
	if err := until(t.Context(), func() (bool, error) {
		_, err := service.Stock(t.Context(), path.Base(b.onSale[0]))
		return errors.Is(err, attack.ErrNotFound), nil
	}); err != nil {
		t.Errorf("%s is still shown: %v", b.onSale[0], err)
	}
}

// attackAsGuest attacks a stack through a balancer, as somebody else's shop is attacked.
func attackAsGuest(t *testing.T, d *sandboxDescription) {
	args := func(target, out string, more ...string) []string {
		return append([]string{"attack", "--target=" + target, "--jwt-secret=" + d.JWTSecret, "--admin-token=" + d.AdminToken,
			"--rate=200", "--stock=50", "--out=" + out}, more...)
	}
	t.Run("withdraws what it put on sale, and names who answered", func(t *testing.T) {
		b, target := newBalancer(t, d.Replicas)
		dir := t.TempDir()
		var out bytes.Buffer
		if err := run(t.Context(), args(target, dir, "--duration=3s", "--mysql-dsn="+d.MySQLDSN), &out, io.Discard); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		b.checkWithdrawn(t, d.Replicas[0], 1+proof.ContendedBursts)
		r := readProof(t, dir).Runs[0]
		if len(r.AnsweredBy) != len(d.Replicas) || !slices.Equal(r.Targets, []string{target}) || r.Started.IsZero() || r.DurationMS < 900 {
			t.Errorf("got answers of %v, targets %v, started %s, duration %.0f ms", r.AnsweredBy, r.Targets, r.Started, r.DurationMS)
		}
		if r.AcceptedLatency.Max <= 0 || r.RefusedLatency.Max <= 0 || r.Latency.Max != max(r.AcceptedLatency.Max, r.RefusedLatency.Max) {
			t.Errorf("got latencies %+v, of orders %+v, of refusals %+v", r.Latency, r.AcceptedLatency, r.RefusedLatency)
		}
		for _, want := range []string{"max ms", target + ", from 20", "; answers of ", "orders p50 ", "refusals p50 "} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the output lacks %q:\n%s", want, out.String())
			}
		}
	})
	t.Run("says what stays on sale", func(t *testing.T) {
		b, target := newBalancer(t, d.Replicas)
		b.noWithdrawal, b.noList = true, true
		var said bytes.Buffer
		dir := t.TempDir()
		if err := run(t.Context(), args(target, dir, "--duration=3s"), io.Discard, &said); err != nil {
			t.Fatal(err)
		}
		if p := readProof(t, dir); !p.Partial || p.Runs[0].UnitsSold != 50 {
			t.Errorf("without a list of orders: got partial %v, %+v", p.Partial, p.Runs[0].Findings)
		}
		if want := "may still be on sale"; !strings.Contains(said.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, said.String())
		}
	})
	t.Run("writes what there is after a signal", func(t *testing.T) {
		b, target := newBalancer(t, d.Replicas)
		ctx, interrupt := context.WithCancel(t.Context())
		b.after, b.ordered = 110, interrupt
		dir := t.TempDir()
		var out bytes.Buffer
		began := time.Now()
		err := run(ctx, args(target, dir, "--duration=10m"), &out, io.Discard)
		if !errors.Is(err, errNotProven) || time.Since(began) > 5*time.Minute {
			t.Fatalf("got %v after %s, want %v\n%s", err, time.Since(began), errNotProven, out.String())
		}
		b.checkWithdrawn(t, d.Replicas[0], 1)
		r := readProof(t, dir).Runs[0]
		if !r.Interrupted || r.Verdict != strategy.NotChallenged || r.UnitsSold != 50 || r.Offered < 100 || !strings.Contains(out.String(), "until it was interrupted") {
			t.Errorf("got interrupted %v, %s, %d sold, %d offered\n%s", r.Interrupted, r.Verdict, r.UnitsSold, r.Offered, out.String())
		}
	})
	t.Run("withdraws after an error", func(t *testing.T) {
		b, target := newBalancer(t, d.Replicas)
		// The second target is another service, and does not show the SKU.
		err := run(t.Context(), args(target+","+strangeReplica(t, target), t.TempDir(), "--duration=1s"), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "does not show the SKU") {
			t.Errorf("got %v", err)
		}
		b.checkWithdrawn(t, d.Replicas[0], 1)
	})
}

// strangeReplica passes requests on, but knows no SKU.
func strangeReplica(t *testing.T, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/skus") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"type":"/errors/unknown-sku"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// An unguarded service at 50 to 200 requests a second sells nothing twice under that load.
// Its verdict must not be exact.
func TestUnguardedServiceIsNeverExact(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{
		"verdicts", "--strategies=process,conditional", "--runs=2", "--max-rate=200", "--api=" + sandboxtest.Build(t, "api"),
	}, &out, &progress)
	if err != nil {
		t.Errorf("%v\n%s%s", err, progress.String(), out.String())
	}
}

// stub answers what attack asks before and after its load. order answers the load's orders.
func stub(t *testing.T, order http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	var onSale sync.Map
	mux.HandleFunc("POST /v1/orders", func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body) // also so that net/http notices when the client disconnects
		var asked struct {
			SKU string `json:"sku"`
		}
		_ = json.Unmarshal(text, &asked)
		r.Body = io.NopCloser(bytes.NewReader(text))
		kind, _, _ := strings.Cut(asked.SKU, "-")
		switch left, known := onSale.Swap(asked.SKU, 0); {
		case kind == "sale" || kind == "last":
			order(w, r)
		case known && left != 0:
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"id":1}`)
		case known:
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"type":"/errors/sold-out"}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"type":"/errors/unknown-sku"}`)
		}
	})
	mux.HandleFunc("PUT /v1/admin/skus/{sku}", func(w http.ResponseWriter, r *http.Request) {
		onSale.Store(r.PathValue("sku"), 1)
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("DELETE /v1/admin/skus/{sku}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /v1/skus/{sku}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"sku":%q,"units":1,"available":1}`, r.PathValue("sku"))
	})
	mux.HandleFunc("GET /v1/orders/{id}", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"type":"/errors/unknown-order"}`)
	})
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// Orders that are never answered would keep an attack for 8 seconds after a signal.
func TestSecondSignalEndsAnAttackAtOnce(t *testing.T) {
	ordered := make(chan struct{}, 1000)
	target := stub(t, func(_ http.ResponseWriter, r *http.Request) {
		ordered <- struct{}{}
		<-r.Context().Done()
	})
	cmd := exec.Command(os.Args[0], "attack", "--target="+target, "--jwt-secret=a", "--admin-token=b", "--rate=10", "--duration=1m", "--out="+t.TempDir())
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // ProcessState says how it ended
		close(ended)
	}()
	select {
	case <-ordered:
	case <-ended:
		t.Fatalf("no order came: %v\n%s", cmd.ProcessState, said.String())
	}
	for {
		_ = cmd.Process.Signal(os.Interrupt) // fails once the program has ended
		select {
		case <-ended:
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGINT {
				t.Errorf("got %v, want the end by SIGINT", cmd.ProcessState)
			}
			return
		case <-time.After(50 * time.Millisecond): // the first signal may not have arrived yet
		}
	}
}

// The service decides no order of a SKU before its twentieth, so that 16 buyers are too few.
func TestUntilContendedRepeatsWithMoreBuyers(t *testing.T) {
	var mu sync.Mutex
	orders := map[string]int{}
	target := stub(t, func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			SKU string `json:"sku"`
		}
		_ = json.NewDecoder(r.Body).Decode(&asked)
		mu.Lock()
		orders[asked.SKU]++
		n := orders[asked.SKU]
		mu.Unlock()
		switch {
		case n < 20:
			w.WriteHeader(http.StatusTooManyRequests)
		case n == 20:
			time.Sleep(100 * time.Millisecond) // so that the others are under way at once, even if they are late
			w.WriteHeader(http.StatusCreated)
		default:
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"type":"/errors/sold-out"}`)
		}
	})
	for _, tt := range []struct {
		until  bool
		buyers []int // of each round
	}{{false, []int{16}}, {true, []int{16, 32}}} {
		flags := loadFlags{UntilContended: tt.until}
		plan := attack.Plan{Targets: []string{target}, Seed: rand.Uint64()}
		rounds, err := flags.challenge(t.Context(), newMeter(io.Discard), "", attack.Config{Plan: plan, JWTSecret: "secret"}, func(*attack.Plan) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		var buyers []int
		for _, r := range rounds {
			buyers = append(buyers, r.Plan.Burst)
		}
		if !slices.Equal(buyers, tt.buyers) {
			t.Errorf("until contended %v: got rounds of %v buyers, want %v", tt.until, buyers, tt.buyers)
		}
	}
}

func TestProgressIsALineEachInterval(t *testing.T) {
	t.Parallel()
	lines := make(chan string, 100)
	m := newMeter(writer(func(p []byte) { lines <- string(p) }))
	m.every = time.Millisecond
	step, end := m.task("load", 2000)
	for range 1500 {
		step()
	}
	<-lines // its name
	if line := <-lines; !strings.HasPrefix(line, "load: ") || !strings.Contains(line, " of 2,000 after ") {
		t.Errorf("got %q", line)
	}
	go func() {
		for range lines {
		}
	}()
	end()
	close(lines) // nothing is written any more
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}
