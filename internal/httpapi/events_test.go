package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/httpapi"
	"flashsale/internal/httpapi/spec/speccheck"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// patience bounds every wait of the tests.
const patience = 60 * time.Second

// event is one event of a stream.
type event struct {
	SKU       string `json:"sku"`
	Units     int64  `json:"units"`
	Available int64  `json:"available"`
	Seq       uint64 `json:"seq"`
	Gone      bool   `json:"gone"`
}

// newChecker returns the checker of all streams.
var newChecker = sync.OnceValues(speccheck.New)

// stream reads an event stream.
type stream struct {
	t        *testing.T
	response *http.Response
	close    func()
	events   chan event    // closed at the end
	comments atomic.Int32  // received
	last     atomic.Uint64 // seq of the last event
}

// watch opens a stream, which it closes at the test's end.
func watch(t *testing.T, url string, headers ...string) *stream {
	t.Helper()
	return watchWith(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, url, headers...)
}

func watchWith(t *testing.T, client *http.Client, url string, headers ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request) //nolint:bodyclose // close does, after read returns
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{t: t, response: response, events: make(chan event, 10_000)}
	ended := make(chan struct{})
	s.close = func() { cancel(); <-ended; _ = response.Body.Close() }
	t.Cleanup(s.close)
	go func() {
		defer close(ended)
		s.read()
	}()
	return s
}

func (s *stream) read() {
	defer close(s.events)
	checker, err := newChecker()
	if err != nil {
		s.t.Error(err)
		return
	}
	var id, name, data string
	for lines := bufio.NewScanner(s.response.Body); lines.Scan(); {
		line := lines.Text()
		field, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "" && data != "":
			if err := checker.CheckEvent(name, []byte(data)); err != nil {
				s.t.Errorf("event %q with data %s: %v", name, data, err)
			}
			var e event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				s.t.Errorf("data %q: %v", data, err)
			}
			if e.Gone && name+id != "gone" || !e.Gone && (name != "stock" || id != fmt.Sprint(e.Seq)) {
				s.t.Errorf("event %q with id %q for seq %d", name, id, e.Seq)
			}
			s.last.Store(e.Seq)
			s.events <- e
			id, name, data = "", "", ""
		case strings.HasPrefix(line, ":"):
			s.comments.Add(1)
		case field == "id":
			id = value
		case field == "event":
			name = value
		case field == "data":
			data = value
		}
	}
}

// next waits for the next event.
func (s *stream) next() event {
	s.t.Helper()
	select {
	case e, ok := <-s.events:
		if !ok {
			s.t.Fatal("the stream has ended")
		}
		return e
	case <-time.After(patience):
		s.t.Fatal("timed out waiting for an event")
	}
	return event{}
}

// until reads events until one has this many units left, and checks that seq grows.
func (s *stream) until(available int64, after event) event {
	s.t.Helper()
	for {
		e := s.next()
		if after.SKU != "" && e.Seq <= after.Seq {
			s.t.Fatalf("seq %d came after %d", e.Seq, after.Seq)
		}
		if after = e; e.Available == available {
			return e
		}
	}
}

// ends waits for the stream's end.
func (s *stream) ends() {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, more := <-s.events:
			if !more {
				return
			}
		case <-timeout:
			s.t.Fatal("timed out waiting for the stream's end")
		}
	}
}

func (s *server) streams() string {
	for line := range strings.Lines(s.call("GET", "/metrics", "").text) {
		if n, ok := strings.CutPrefix(line, "flashsale_http_event_streams "); ok {
			return strings.TrimSpace(n)
		}
	}
	return ""
}

func (s *server) awaitStreams(n string) {
	s.t.Helper()
	sandboxtest.Eventually(s.t, n+" open streams", func() bool { return s.streams() == n })
}

// put creates a SKU with four units.
func (s *server) put(sku string) {
	s.t.Helper()
	if got := s.putSKU(sku, thing); got.StatusCode != http.StatusCreated {
		s.t.Fatalf("put %s: %s", sku, got.text)
	}
}

func TestStreamSendsTheStockAndItsChanges(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put("lamp")
	s.put("sofa")
	// A stream must outlive the server's timeouts, which are short here.
	short := httptest.NewUnstartedServer(s.Config.Handler)
	short.Config.ReadHeaderTimeout, short.Config.ReadTimeout, short.Config.WriteTimeout = patience, 2*time.Second, 2*time.Second
	short.Start()
	t.Cleanup(short.Close)
	one := watch(t, short.URL+"/v1/skus/lamp/events")
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := one.response.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	first := one.next()
	if want := (event{SKU: "lamp", Units: 4, Available: 4, Seq: first.Seq}); first != want {
		t.Errorf("the first event is %+v, want %+v", first, want)
	}
	all := watch(t, s.URL+"/v1/events")
	if a, b := all.next(), all.next(); a.SKU != "lamp" || b.SKU != "sofa" {
		t.Errorf("the first events of all are %+v and %+v", a, b)
	}
	s.order(customer(t, "ann"), "k", `{"sku":"lamp","quantity":3}`).check(t, 201, "", "")
	second := one.until(1, first)
	if got := all.next(); got != second {
		t.Errorf("the stream of all SKUs has %+v, the stream of one %+v", got, second)
	}

	// With Last-Event-ID, the client gets only newer events.
	again := watch(t, s.URL+"/v1/skus/lamp/events", "Last-Event-ID", fmt.Sprint(second.Seq))
	behind := watch(t, s.URL+"/v1/skus/lamp/events", "Last-Event-ID", fmt.Sprint(first.Seq))
	if got := behind.next(); got != second {
		t.Errorf("a client that missed an event got %+v, want %+v", got, second)
	}
	s.order(customer(t, "ann"), "k2", `{"sku":"lamp","quantity":1}`).check(t, 201, "", "")
	if got := again.next(); got.Available != 0 {
		t.Errorf("a client that missed no event got %+v", got)
	}
	one.until(0, second)

	s.call("GET", "/v1/skus/none/events", "").check(t, 404, "unknown-sku", "")
	s.call("GET", "/v1/skus/-/events", "").check(t, 404, "unknown-sku", "")

	// The heartbeat comes after the server's timeouts.
	sandboxtest.Eventually(t, "a heartbeat", func() bool { return one.comments.Load() > 0 })
	one.close()
	s.awaitStreams("3")
	text := s.call("GET", "/metrics", "").text
	if !strings.Contains(text, `http_requests_total{method="GET",route="/v1/skus/:sku/events",status="200"} 3`) {
		t.Error("the metrics do not count the streams")
	}
}

// levels is a source of stock that the test controls.
type levels struct {
	skus  int
	sold  atomic.Uint64
	reads atomic.Int32
	down  atomic.Bool
}

func (l *levels) read(context.Context) ([]stock.Level, error) {
	l.reads.Add(1)
	if l.down.Load() {
		return nil, io.ErrUnexpectedEOF
	}
	seq := l.sold.Load()
	list := make([]stock.Level, l.skus)
	for i := range list {
		list[i] = stock.Level{SKU: fmt.Sprintf("sku-%06d", i), Units: 1 << 40, Available: 1<<40 - int64(seq), Seq: seq + 1}
	}
	return list, nil
}

func TestStreamsShareOneRead(t *testing.T) {
	t.Parallel()
	source := &levels{skus: 1}
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Levels, cfg.MaxStreams, cfg.MaxStreamsAddress = source.read, 50, 50 })
	began := time.Now()
	var all []*stream
	for range 50 {
		all = append(all, watch(t, s.URL+"/v1/events"))
	}
	s.call("GET", "/v1/events", "").check(t, 503, "busy", "")
	source.sold.Store(1)
	for _, one := range all {
		one.until(1<<40-1, event{})
	}
	if reads, most := source.reads.Load(), int32(time.Since(began)/(250*time.Millisecond))+1; reads > most {
		t.Errorf("read %d times in %s, want at most %d", reads, time.Since(began), most)
	}
	// While the source fails, streams send no events.
	source.down.Store(true)
	reads := source.reads.Load()
	sandboxtest.Eventually(t, "two failed reads", func() bool { return source.reads.Load() >= reads+2 })
	late := watch(t, s.URL+"/v1/events", "Last-Event-ID", "9")
	if late.response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stream over the limit got %d", late.response.StatusCode)
	}
	all[0].close()
	s.awaitStreams("49")
	late = watch(t, s.URL+"/v1/events", "Last-Event-ID", "9")
	sandboxtest.Eventually(t, "a heartbeat while the stock is unknown", func() bool { return late.comments.Load() > 0 })
	if len(late.events) > 0 {
		t.Errorf("got %+v while the stock is unknown", <-late.events)
	}
	source.down.Store(false)
	if got := late.next(); got.Seq != 2 {
		t.Errorf("got %+v when the stock is known again", got)
	}
	if n := len(all[1].events); n > 0 {
		t.Errorf("%d events without a change", n)
	}
}

// A client that does not read loses its stream, without an effect on other streams.
func TestSlowClientDelaysNoOthers(t *testing.T) {
	t.Parallel()
	source := &levels{skus: 50_000} // more than any socket's buffers
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Levels = source.read })
	address := strings.TrimPrefix(s.URL, "http://")
	slow, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := fmt.Fprintf(slow, "GET /v1/events HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
		t.Fatal(err)
	}
	s.put("sku-000000")
	quick := watch(t, s.URL+"/v1/skus/sku-000000/events")
	last := quick.next()
	s.awaitStreams("2")
	for sold := uint64(1); s.streams() != "1"; sold++ {
		source.sold.Store(sold)
		last = quick.until(1<<40-int64(sold), last)
		if sold > 1000 {
			t.Fatal("the slow client still has its stream")
		}
	}
}

// Some of many streams follow all SKUs, some one, some over HTTP/2, and some are not read.
// Each of the others has the last state at the end, and nothing in the wrong order.
func TestManyStreamsHaveTheLastState(t *testing.T) {
	t.Parallel()
	const skus, changes = 20, 200
	source := &levels{skus: skus}
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Levels, cfg.MaxStreamsAddress = source.read, 1000 })
	s.put("sku-000007")
	second := httptest.NewUnstartedServer(s.Config.Handler)
	second.EnableHTTP2 = true
	second.StartTLS()
	t.Cleanup(second.Close)
	address := strings.TrimPrefix(s.URL, "http://")
	for range 50 {
		unread, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer unread.Close()
		if _, err := fmt.Fprintf(unread, "GET /v1/events HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
			t.Fatal(err)
		}
	}
	var all, one []*stream
	for i := range 100 {
		all = append(all, watch(t, s.URL+"/v1/events"))
		one = append(one, watch(t, s.URL+"/v1/skus/sku-000007/events"))
		if i%10 == 0 {
			shared := watchWith(t, second.Client(), second.URL+"/v1/events")
			if shared.response.ProtoMajor != 2 {
				t.Fatalf("the stream is over %s", shared.response.Proto)
			}
			all = append(all, shared)
		}
	}
	for sold := uint64(1); sold <= changes; sold++ {
		source.sold.Store(sold)
		time.Sleep(time.Millisecond)
	}
	for _, each := range one {
		each.until(1<<40-changes, event{})
	}
	for _, each := range all {
		last := map[string]event{}
		for done := 0; done < skus; {
			e := each.next()
			if e.Seq <= last[e.SKU].Seq {
				t.Fatalf("%+v came after %+v", e, last[e.SKU])
			}
			if last[e.SKU] = e; e.Available == 1<<40-changes {
				done++
			}
		}
	}
}

func TestStreamsEndAtDrain(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Draining = draining })
	s.put("lamp")
	one, all := watch(t, s.URL+"/v1/skus/lamp/events"), watch(t, s.URL+"/v1/events")
	one.next()
	close(draining)
	one.ends()
	all.ends()
	s.call("GET", "/v1/events", "").check(t, 503, "unavailable", "")
}

// startReplicas starts n replicas as processes on a new database.
func startReplicas(t *testing.T, n int, change func(*sandbox.ReplicaConfig)) []*server {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("api%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	all := make([]*server, n)
	for i := range all {
		cfg := sandbox.ReplicaConfig{Replica: fmt.Sprintf("replica-%d", i+1), MySQLDSN: dsn, EtcdEndpoints: servers.EtcdEndpoints(),
			AdminToken: adminToken, JWTSecret: secret}
		change(&cfg)
		replica := sandboxtest.StartReplica(t, cfg)
		all[i] = &server{t: t, Server: &httptest.Server{URL: replica.URL}, process: replica.Process}
	}
	return all
}

// Client returns the HTTP client for the server.
func (s *server) Client() *http.Client {
	if s.process != nil {
		return http.DefaultClient
	}
	return s.Server.Client()
}

func TestStreamShowsSalesOfOtherReplicas(t *testing.T) {
	t.Parallel()
	etcd := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1}) // its own, as the test restarts it
	replicas := startReplicas(t, 2, func(cfg *sandbox.ReplicaConfig) { cfg.EtcdEndpoints = etcd.EtcdEndpoints() })
	here, there := replicas[0], replicas[1]
	here.putSKU("lamp", `{"name":"A thing","price_cents":999,"currency":"EUR","units":100}`).check(t, 201, "", "")
	one, all := watch(t, there.URL+"/v1/skus/lamp/events"), watch(t, there.URL+"/v1/events")
	ann := customer(t, "ann")
	last := one.until(100, event{})
	buy := func(left int64) {
		t.Helper()
		for began := time.Now(); ; {
			got := here.order(ann, fmt.Sprint(left), `{"sku":"lamp","quantity":1}`)
			if got.StatusCode == http.StatusCreated {
				break
			}
			if time.Since(began) > patience || got.StatusCode < 500 {
				got.check(t, 201, "", "")
			}
			time.Sleep(100 * time.Millisecond)
		}
		last = one.until(left, last)
	}
	for left := int64(99); left > 90; left-- {
		buy(left)
	}
	if err := etcd.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for left := int64(90); left > 80; left-- {
		buy(left)
	}
	for seen := (event{}); seen.Available != 81; {
		seen = all.until(81, seen)
	}
	began := time.Now()
	if err := there.process.Signal(os.Signal(syscall.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	one.ends()
	all.ends()
	select {
	case <-there.process.Done():
		t.Logf("ended %s after SIGTERM", time.Since(began))
	case <-time.After(patience):
		t.Error("timed out waiting for the replica's end")
	}
}
