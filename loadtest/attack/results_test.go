package attack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

// shop accepts orders, payments and cancellations, and notes what it was asked for.
type shop struct {
	mu      sync.Mutex
	paths   map[string]int
	owners  map[string]string // of orders: the Authorization header
	strange []string
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("X-Replica", "shop-1")
	parts := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	kind := parts[len(parts)-1]
	switch {
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/skus"):
		kind = "browse"
		_, _ = io.WriteString(w, `{"items":[]}`)
	case r.URL.Path == "/v1/orders":
		o, err := parse(r)
		if err != nil {
			s.strange = append(s.strange, err.Error())
		}
		// As other services do: every second id is a number.
		id, text := idFor(o).String(), fmt.Sprintf("%q", idFor(o))
		if s.paths[kind]%2 == 0 {
			id = strconv.Itoa(s.paths[kind])
			text = id
		} else if s.paths[kind]%3 == 0 {
			id = "2024/" + strconv.Itoa(s.paths[kind]) + "#a"
			text = strconv.Quote(id)
		}
		s.owners[id] = r.Header.Get("Authorization")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":%s}`, text)
	default:
		id, _ := url.PathUnescape(parts[2])
		if s.owners[id] == "" || s.owners[id] != r.Header.Get("Authorization") {
			s.strange = append(s.strange, r.URL.Path+" of another customer, or again")
		}
		delete(s.owners, id)
		_, _ = io.WriteString(w, `{"id":`+strconv.Quote(id)+`}`)
	}
	s.paths[kind]++
}

// attackShop returns the shop after an attack with all calls, and the answers.
func attackShop(t *testing.T, results ...*Results) (*shop, Plan, []Answer) {
	t.Helper()
	s := &shop{paths: map[string]int{}, owners: map[string]string{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	plan := Plan{
		Targets: []string{server.URL}, SKUs: []string{"one", "two"}, MaxQuantity: 2, Rate: 300, Duration: 10 * time.Second, Seed: 3,
		Mix: Mix{Place: 5, Pay: 2, Cancel: 1, Browse: 2},
	}
	const enough = 300
	stop, n := make(chan struct{}), 0
	result, err := Run(t.Context(), Config{Plan: plan, JWTSecret: secret, Buyers: 8, Results: results, Stop: stop, OnAnswer: func(Answer) {
		if n++; n == enough {
			close(stop)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s, plan, result.Answers
}

func TestMixHasItsSharesAndActsOnOwnOrders(t *testing.T) {
	s, plan, answers := attackShop(t)
	if len(s.strange) > 0 {
		t.Errorf("strange requests: %v", s.strange)
	}
	counts := map[string]int{}
	for i, a := range answers {
		counts[a.Call.String()]++
		want := Served
		if a.Call == Place {
			want = Accepted
		}
		if a.Outcome != want || a.Seq != i {
			t.Errorf("answer %d: %+v", i, a)
		}
		if a.Call == Pay || a.Call == Cancel {
			if of := answers[a.Of]; of.Call != Place || of.OrderID != a.OrderID {
				t.Errorf("answer %+v is for the order of %+v", a, of)
			}
		}
	}
	for name, path := range map[string]string{"order": "orders", "pay": "payment", "cancel": "cancellation", "browse": "browse"} {
		if counts[name] != s.paths[path] || counts[name] == 0 {
			t.Errorf("%d answers of %s, %d requests", counts[name], name, s.paths[path])
		}
	}
	// Requests are drawn by the seed.
	if n, all := counts["browse"], len(answers); n < all/10 || n > all/3 {
		t.Errorf("%d of %d requests browse, want a fifth", n, all)
	}
	if want := plan.Requests() / 2; plan.Orders() != want {
		t.Errorf("%d orders are planned, want %d", plan.Orders(), want)
	}
}

// All formats have every answer, and vegeta's own decoder and report read its two.
func TestResultsHaveEveryAnswer(t *testing.T) {
	names := []string{"r.jsonl", "r.bin", "r.json"}
	files, list := map[string]*bytes.Buffer{}, []*Results{}
	for _, name := range names {
		files[name] = &bytes.Buffer{}
		list = append(list, NewResults(name, files[name]))
	}
	_, plan, answers := attackShop(t, list...)
	for _, r := range list {
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
	}
	lines := 0
	for dec := json.NewDecoder(files["r.jsonl"]); ; lines++ {
		var l Line
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if a := answers[l.Seq]; l != lineOf(&plan, &a) || l.Replica != "shop-1" || (l.SKU == "") != (a.Call == Browse) {
			t.Errorf("line %+v of answer %+v", l, a)
		}
	}
	if lines != len(answers) {
		t.Errorf("%d lines for %d answers", lines, len(answers))
	}
	latencies := LatenciesOf(answers)
	for _, name := range names[1:] {
		text := files[name].Bytes()
		dec, m := vegeta.DecoderFor(bytes.NewReader(text)), &vegeta.Metrics{}
		for {
			var res vegeta.Result
			if err := dec.Decode(&res); err != nil {
				break
			}
			m.Add(&res)
		}
		m.Close()
		if m.Requests != uint64(len(answers)) || m.Latencies.Max != latencies.Quantile(1) || m.BytesOut.Total == 0 || m.BytesIn.Total == 0 {
			t.Errorf("%s: %d requests with max %s, want %d with %s", name, m.Requests, m.Latencies.Max, len(answers), latencies.Quantile(1))
		}
	}
}

func TestVegetaReportsAndPlotsResults(t *testing.T) {
	tier.OnlyTestAll(t, "vegeta's program, which only make test-all sets up")
	for _, name := range []string{"r.bin", "r.json"} {
		file := filepath.Join(t.TempDir(), name)
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		results := NewResults(name, f)
		_, _, answers := attackShop(t, results)
		if err := errors.Join(results.Err(), f.Close()); err != nil {
			t.Fatal(err)
		}
		for command, want := range map[string]string{"report": fmt.Sprintf(" %d,", len(answers)), "plot": "<html"} {
			cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/vegeta.mod", "vegeta", command, file)
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(want)) {
				t.Errorf("vegeta %s %s: %v, and no %q in\n%.500s", command, name, err, want, out)
			}
		}
	}
}

// stuckDisk accepts nothing until it is released.
type stuckDisk struct{ released chan struct{} }

func (d stuckDisk) Write(p []byte) (int, error) {
	<-d.released
	return len(p), nil
}

// The disk stands still until there are more answers than the buffer holds.
func TestSlowDiskDelaysNoRequest(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) }))
	defer server.Close()
	plan := Plan{Targets: []string{server.URL}, SKUs: []string{"one"}, MaxQuantity: 1, Rate: 500, Duration: 20 * time.Second}
	disk, stop := stuckDisk{make(chan struct{})}, make(chan struct{})
	release := sync.OnceFunc(func() {
		close(disk.released)
		close(stop)
	})
	defer time.AfterFunc(2*plan.Duration, release).Stop()
	results, n := NewResults("r.jsonl", disk), 0
	const enough = 2 * resultsBuffer / 150 // bytes a line
	_, err := Run(t.Context(), Config{Plan: plan, JWTSecret: secret, Buyers: 8, Results: []*Results{results}, Stop: stop, OnAnswer: func(Answer) {
		if n++; n == enough {
			release()
		}
	}})
	if err != nil || results.Err() != nil || n < enough {
		t.Errorf("got %v, %v and %d answers, want %d", err, results.Err(), n, enough)
	}
}

type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestFullDiskIsReported(t *testing.T) {
	results := NewResults("r.bin", fullDisk{})
	if attackShop(t, results); !errors.Is(results.Err(), errFull) {
		t.Errorf("got %v", results.Err())
	}
}
