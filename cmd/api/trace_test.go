package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
)

// span has the fields of a span that the tests examine.
type span struct {
	TraceID, SpanID, ParentSpanID []byte
	Name                          string
	Start                         uint64 `json:"startTimeUnixNano,string"`
	End                           uint64 `json:"endTimeUnixNano,string"`
	Links                         []struct{ SpanID []byte }
	Attributes                    []struct {
		Key   string
		Value struct{ StringValue string }
	}
}

// receiver is a collector that receives spans by OTLP over HTTP.
type receiver struct {
	*httptest.Server
	t     *testing.T
	mu    sync.Mutex
	spans []*span
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t}
	r.Server = httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) receive(w http.ResponseWriter, request *http.Request) {
	spans, err := readSpans(request.Body)
	if err != nil || request.URL.Path != "/v1/traces" {
		r.t.Errorf("%s: %v", request.URL, err)
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, spans...)
}

// readSpans decodes a request of the exporter. The exporter, which is part of this
// program, has registered the type of the message.
func readSpans(body io.Reader) (spans []*span, err error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName("opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest")
	if err != nil {
		return nil, err
	}
	message := kind.New().Interface()
	if err := proto.Unmarshal(text, message); err != nil {
		return nil, err
	}
	if text, err = protojson.Marshal(message); err != nil {
		return nil, err
	}
	var batch struct {
		ResourceSpans []struct{ ScopeSpans []struct{ Spans []*span } }
	}
	if err := json.Unmarshal(text, &batch); err != nil {
		return nil, err
	}
	for _, resource := range batch.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			spans = append(spans, scope.Spans...)
		}
	}
	return spans, nil
}

// trace returns the spans of one trace, by name.
func (r *receiver) trace(id string) map[string][]*span {
	r.mu.Lock()
	defer r.mu.Unlock()
	spans := map[string][]*span{}
	for _, s := range r.spans {
		if hex.EncodeToString(s.TraceID) == id {
			spans[s.Name] = append(spans[s.Name], s)
		}
	}
	return spans
}

// all returns the spans of that name.
func (r *receiver) all(name string) (found []*span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

const callersSpan = "00f067aa0ba902b7"

func traceID(n int) string { return fmt.Sprintf("4bf92f3577b34da6a3ce929d%08x", n) }

// orderTraced orders one unit in the n-th trace, which is sampled or not. It returns the
// header of the answer.
func (c *client) orderTraced(sku, customer string, n int, sampled bool) (http.Header, error) {
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.URL+"/v1/orders", strings.NewReader(fmt.Sprintf(`{"sku":%q,"quantity":1}`, sku)))
	if err != nil {
		return nil, err
	}
	flags := "00"
	if sampled {
		flags = "01"
	}
	request.Header.Set("Authorization", "Bearer "+customerToken(c.t, customer))
	request.Header.Set("Idempotency-Key", "key")
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", "00-"+traceID(n)+"-"+callersSpan+"-"+flags)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("order was answered %s", response.Status)
	}
	return response.Header, nil
}

func tracedConfig(t *testing.T, name, endpoint string) sandbox.ReplicaConfig {
	t.Helper()
	cfg := replicaConfig(newDSN(t), "a", name)
	cfg.Args = append(cfg.Args, "--otlp-endpoint="+endpoint, "--trace-ratio=0")
	cfg.Env = append(cfg.Env, "OTEL_BSP_SCHEDULE_DELAY=50") // milliseconds
	return cfg
}

// An order's spans continue the caller's trace: the request, the desk, the lock and the
// statements. Each batch is linked with its orders.
func TestTraceContinuesFromTheCallerToTheStatements(t *testing.T) {
	t.Parallel()
	spans := newReceiver(t)
	c := start(t, tracedConfig(t, strategy.Default, spans.URL))
	c.putSKU("lamp", 100)
	const orders = 30
	var group errgroup.Group
	for i := range orders {
		group.Go(func() error { _, err := c.orderTraced("lamp", fmt.Sprint("customer-", i), i, true); return err })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.orderTraced("lamp", "unsampled", orders, false); err != nil {
		t.Fatal(err)
	}
	c.terminate() // which sends all spans

	linked := map[string]bool{}
	for _, commit := range spans.all("commit") {
		for _, link := range commit.Links {
			linked[hex.EncodeToString(link.SpanID)] = true
		}
		if n := len(spans.children(commit, "sql.conn.exec")); n != 1 {
			t.Errorf("a commit has %d statements in its span, want 1 packet", n)
		}
	}
	locked := 0
	for i := range orders {
		trace := spans.trace(traceID(i))
		if len(trace["POST /v1/orders"]) != 1 {
			t.Fatalf("trace %d has the spans %v, want one of the request", i, slices.Collect(maps.Keys(trace)))
		}
		request := trace["POST /v1/orders"][0]
		if got := hex.EncodeToString(request.ParentSpanID); got != callersSpan {
			t.Errorf("the request's parent is %s, want the caller's %s", got, callersSpan)
		}
		if len(trace["desk wait"]) == 0 {
			t.Errorf("trace %d has no desk wait: %v", i, slices.Collect(maps.Keys(trace)))
		}
		for _, name := range []string{"desk wait", "lock wait", "claim", "commit"} {
			for _, s := range trace[name] {
				if !bytes.Equal(s.ParentSpanID, request.SpanID) {
					t.Errorf("%s is not the request's child", name)
				}
				if s.End < s.Start || s.Start < request.Start {
					t.Errorf("%s ended before it started, or started before its request", name)
				}
			}
		}
		locked += len(trace["lock wait"])
		if !linked[hex.EncodeToString(request.SpanID)] {
			t.Errorf("no commit is linked with order %d", i)
		}
	}
	if locked == 0 {
		t.Error("no order waited for the lock")
	}
	if got := spans.trace(traceID(orders)); len(got) > 0 {
		t.Errorf("an unsampled trace has spans: %v", got)
	}
	for _, s := range spans.spans {
		for _, a := range s.Attributes {
			if text := a.Value.StringValue; strings.Contains(text, "INSERT") || strings.Contains(text, hex.EncodeToString([]byte("customer-1"))) {
				t.Fatalf("%s contains a statement: %s = %s", s.Name, a.Key, text)
			}
		}
	}
}

func (r *receiver) children(of *span, name string) (found []*span) {
	for _, s := range r.all(name) {
		if bytes.Equal(s.ParentSpanID, of.SpanID) {
			found = append(found, s)
		}
	}
	return found
}

// Without a desk, the trace of each order contains its lock and its statements.
func TestTraceOfAnOrderWithoutADesk(t *testing.T) {
	t.Parallel()
	spans := newReceiver(t)
	c := start(t, tracedConfig(t, "etcd-textbook", spans.URL))
	c.putSKU("lamp", 10)
	if _, err := c.orderTraced("lamp", "ann", 1, true); err != nil {
		t.Fatal(err)
	}
	c.terminate()
	trace := spans.trace(traceID(1))
	if len(trace["POST /v1/orders"]) != 1 || len(trace["lock wait"]) != 1 {
		t.Fatalf("the trace has the spans %v", slices.Collect(maps.Keys(trace)))
	}
	request, lock := trace["POST /v1/orders"][0], trace["lock wait"][0]
	if !bytes.Equal(lock.ParentSpanID, request.SpanID) {
		t.Error("the wait for the lock is not the request's child")
	}
	if len(spans.children(lock, "etcdserverpb.KV/Txn")) == 0 {
		t.Error("the wait for the lock has no span of an etcd transaction")
	}
	if n := len(spans.children(request, "sql.conn.exec")); n < 3 { // BEGIN, a write, COMMIT
		t.Errorf("the order has %d statements, want at least 3", n)
	}
}

// A collector accepts connections but never answers. Orders do not wait for it, and the
// replica's end only for a bounded time.
func TestCollectorThatNeverAnswersDelaysNoOrder(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	accepted := make(chan net.Conn, 64)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn // kept open
		}
	}()
	c := start(t, tracedConfig(t, strategy.Default, "http://"+listener.Addr().String()))
	c.putSKU("lamp", 5000)
	ask := func(from, to int) {
		t.Helper()
		var group errgroup.Group
		group.SetLimit(16)
		for i := from; i < to; i++ {
			group.Go(func() error { _, err := c.orderTraced("lamp", fmt.Sprint("customer-", i), i, true); return err })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	ask(0, 100)
	<-accepted
	ask(100, 1100) // more spans than the exporter's queue holds
	began := time.Now()
	c.terminate()
	if took := time.Since(began); took > closeTimeout+10*time.Second {
		t.Errorf("the replica needed %s to end", took)
	}
}

// Each log line of a request has the request's id, which the answer also has. Lines of
// an order also have the ids of the order and the trace. No line contains a token.
func TestLogLinesHaveTheIDsOfRequestOrderAndTrace(t *testing.T) {
	t.Parallel()
	spans := newReceiver(t)
	cfg := tracedConfig(t, strategy.Default, spans.URL)
	cfg.LogPath = filepath.Join(t.TempDir(), "log")
	cfg.Args = append(cfg.Args, "--log-level=debug")
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	answer, err := c.orderTraced("lamp", "ann", 7, true)
	if err != nil {
		t.Fatal(err)
	}
	own := answer.Get("X-Request-Id")
	if len(own) != 26 {
		t.Errorf("X-Request-Id is %q, want 26 characters", own)
	}
	accepted := "my-own_id.1:2"
	for given, want := range map[string]bool{accepted: true, "with space": false, strings.Repeat("x", 129): false, `quote"`: false, "": false} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL+"/v1/skus/lamp?token=hidden", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Request-Id", given)
		request.Header.Set("Authorization", "Bearer hidden")
		answer, err := c.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if got := answer.Header.Get("X-Request-Id"); (got == given) != want || got == "" {
			t.Errorf("request id %q was answered with %q", given, got)
		}
	}
	c.terminate()
	lines := readLog(t, cfg.LogPath)
	at := slices.IndexFunc(lines, func(l map[string]any) bool { return l["request_id"] == own })
	if at < 0 {
		t.Fatalf("no line has the request's id %s: %v", own, lines)
	}
	order := strings.TrimPrefix(answer.Get("Location"), "/v1/orders/")
	took, ok := lines[at]["duration_ms"].(float64)
	if !ok || took <= 0 {
		t.Errorf("duration_ms is %v", lines[at]["duration_ms"])
	}
	level := "DEBUG"
	if took >= 1000 { // slow requests are logged at info
		level = "INFO"
	}
	for name, want := range map[string]any{"msg": "request", "level": level, "method": "POST", "route": "/v1/orders", "path": "/v1/orders",
		"status": 201.0, "order_id": order, "trace_id": traceID(7), "replica": "a"} {
		if got := lines[at][name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if !slices.ContainsFunc(lines, func(l map[string]any) bool { return l["request_id"] == accepted && l["path"] == "/v1/skus/lamp" }) {
		t.Error("no line has the caller's own id")
	}
}

// readLog parses the lines of a log. No line may contain a secret.
func readLog(t *testing.T, path string) (lines []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"hidden", "Bearer", secret, adminToken, "eyJ"} {
		if bytes.Contains(text, []byte(hidden)) {
			t.Errorf("the log contains %q", hidden)
		}
	}
	for line := range bytes.Lines(text) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Errorf("not a line of JSON: %q: %v", line, err)
			continue
		}
		lines = append(lines, fields)
	}
	return lines
}

// A request that gets a 5xx is logged at level info, with its id.
func TestFailedRequestsAreLoggedAtInfo(t *testing.T) {
	t.Parallel()
	cfg := replicaConfig(newDSN(t), "a", "get-lock")
	cfg.LogPath = filepath.Join(t.TempDir(), "log")
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	holder := openDB(t, cfg.MySQLDSN)
	conn, err := holder.SQL.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.ExecContext(t.Context(), "LOCK TABLES stock WRITE"); err != nil { // until UNLOCK TABLES
		t.Fatal(err)
	}
	if status, err := c.order("lamp", "ann"); err != nil || status < 500 {
		t.Fatalf("got %d, %v; want a 5xx", status, err)
	}
	if _, err := conn.ExecContext(t.Context(), "UNLOCK TABLES"); err != nil {
		t.Fatal(err)
	}
	c.terminate()
	if !slices.ContainsFunc(readLog(t, cfg.LogPath), func(l map[string]any) bool {
		status, _ := l["status"].(float64)
		return l["msg"] == "request" && l["level"] == "INFO" && status >= 500 && l["request_id"] != ""
	}) {
		t.Error("no line at level info reports the failed request")
	}
}
