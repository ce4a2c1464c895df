package attack

import (
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// stagesOf parses "10s:100,30s:0".
func stagesOf(t testing.TB, text string) []Stage {
	t.Helper()
	stages, err := ParseStages(strings.Split(text, ","))
	if err != nil {
		t.Fatal(err)
	}
	return stages
}

func TestRequestsAreDueByTheStages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stages string
		n      int
		due    map[int]time.Duration
	}{
		{"0s:100,10s:100", 1000, map[int]time.Duration{0: 10 * time.Millisecond, 99: time.Second, 999: 10 * time.Second}},
		// 5 t² requests within t seconds.
		{"10s:100", 500, map[int]time.Duration{4: time.Second, 19: 2 * time.Second, 124: 5 * time.Second, 499: 10 * time.Second}},
		{"10s:100,10s:100,10s:0", 2000, map[int]time.Duration{
			499: 10 * time.Second, 999: 15 * time.Second, 1499: 20 * time.Second, 1994: 29 * time.Second, 1999: 30 * time.Second,
		}},
		// A pause, and a jump.
		{"0s:10,1s:10,0s:0,5s:0,0s:20,1s:20", 30, map[int]time.Duration{9: time.Second, 10: 6050 * time.Millisecond, 29: 7 * time.Second}},
	} {
		plan := Plan{}
		plan.Ramp(stagesOf(t, tt.stages))
		if got := plan.Requests(); got != tt.n {
			t.Errorf("%s: %d requests, want %d", tt.stages, got, tt.n)
		}
		s := plan.schedule(nil)
		for seq, want := range tt.due {
			if got := s.Due(seq); got.Round(time.Microsecond) != want {
				t.Errorf("%s: request %d is due at %s, want %s", tt.stages, seq, got, want)
			}
		}
		last := time.Duration(0)
		for seq := range tt.n {
			due := s.Due(seq)
			if due < last || due > plan.Duration+time.Microsecond {
				t.Fatalf("%s: request %d is due at %s, after one at %s, in %s", tt.stages, seq, due, last, plan.Duration)
			}
			if wait, stop := s.Pace(0, uint64(seq)); stop || wait != due {
				t.Fatalf("%s: the pacer waits %s for request %d, due at %s", tt.stages, wait, seq, due)
			}
			last = due
		}
		if _, stop := s.Pace(0, uint64(tt.n)); !stop {
			t.Errorf("%s: more than %d requests", tt.stages, tt.n)
		}
	}
}

func TestBadStagesAndMixesAreReported(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "10s", "10s:", ":5", "10s:-1", "-1s:5", "10:5", "10s:5x", "10s:1000001"} {
		if _, err := ParseStages([]string{text}); err == nil || !strings.Contains(err.Error(), "--stages") {
			t.Errorf("%q: got %v", text, err)
		}
	}
	for _, stages := range []string{"10s:0", "0s:100", "1h:1000000"} {
		plan := Plan{Targets: []string{"http://a"}, SKUs: []string{"one"}, MaxQuantity: 1}
		plan.Ramp(stagesOf(t, stages))
		if err := plan.Check(); err == nil || !strings.Contains(err.Error(), "--stages are") {
			t.Errorf("%s: got %v", stages, err)
		}
	}
	for _, text := range []string{"order", "order=", "orders=5", "pay=-1", "pay=5", "order=0", "order=99999999999999999999"} {
		if _, err := ParseMix([]string{text}); err == nil || !strings.Contains(err.Error(), "--mix") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// A service that stands still under a ramp makes all later requests late.
func TestLatencyCountsFromWhenDueAlsoUnderARamp(t *testing.T) {
	t.Parallel()
	const pause = 100 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(pause)
		w.WriteHeader(http.StatusConflict)
	}))
	defer server.Close()
	plan := Plan{Targets: []string{server.URL}, SKUs: []string{"one"}, MaxQuantity: 1}
	plan.Ramp(stagesOf(t, "3s:50"))
	result, err := Run(t.Context(), Config{Plan: plan, JWTSecret: secret, Buyers: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range result.Answers {
		due := time.Duration(math.Sqrt(float64(i+1)*6/50) * float64(time.Second))
		if a.Due.Round(time.Microsecond) != due.Round(time.Microsecond) {
			t.Errorf("request %d was due at %s, want %s", i, a.Due, due)
		}
		// One buyer: request i waits for those before it.
		if least := time.Duration(i+1)*pause - due; a.Latency() < least {
			t.Errorf("request %d has a latency of %s, want at least %s", i, a.Latency(), least)
		}
	}
	if n := len(result.Answers); n < 2 || n >= plan.Requests() {
		t.Errorf("%d requests of %d were sent by one buyer", n, plan.Requests())
	}
}
