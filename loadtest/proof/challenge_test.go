package proof

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

// shop sells one unit of each SKU. It pauses between reading its stock and writing it; with
// a guard, it reads again when it writes.
type shop struct {
	guard bool
	pause time.Duration
	// decides, if set, is how many orders of a SKU are decided; others are sheds, or 429.
	decides, sheds int

	mu   sync.Mutex
	seen map[string]int // orders by SKU
	rows []Row
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		SKU string `json:"sku"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.seen[asked.SKU]++
	limited := s.decides > 0 && s.seen[asked.SKU] > s.decides
	left := Held(s.rows, asked.SKU) == 0
	s.mu.Unlock()
	if limited {
		w.WriteHeader(cmp.Or(s.sheds, http.StatusTooManyRequests))
		fmt.Fprint(w, `{"type":"/errors/too-many-requests"}`)
		return
	}
	time.Sleep(s.pause)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !left || s.guard && Held(s.rows, asked.SKU) > 0 {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"type":"/errors/sold-out"}`)
		return
	}
	row := Row{ID: uuid.New(), SKU: asked.SKU, Key: r.Header.Get("Idempotency-Key"), Quantity: 1, Status: "reserved"}
	s.rows = append(s.rows, row)
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"id":%q}`, row.ID)
}

// challenge returns a run that sold everything under its load, and that was challenged.
func (s *shop) challenge(t *testing.T) Run {
	t.Helper()
	s.seen = map[string]int{}
	server := httptest.NewServer(s)
	defer server.Close()
	plan := attack.Plan{Targets: []string{server.URL, server.URL}, Seed: 1}
	var skus []string
	var stocks []attack.Stock
	for i := range Bursts {
		skus = append(skus, fmt.Sprint("last-", i))
	}
	round := Round{Plan: plan.Bursts(skus, BurstBuyers)}
	answers, err := attack.Bursts(t.Context(), attack.Config{Plan: round.Plan, JWTSecret: "secret"}, func([]attack.Answer) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	round.Answers = answers
	for _, sku := range skus {
		stocks = append(stocks, attack.Stock{SKU: sku, Units: 1, Available: max(0, 1-Held(s.rows, sku))})
	}
	customers := map[string]string{}
	for seq := range answers {
		o := round.Plan.Order(seq)
		customers[o.Key] = o.Customer
	}
	for i := range s.rows {
		s.rows[i].Customer = customers[s.rows[i].Key]
	}
	run := Run{Verdict: strategy.Exact, Expected: strategy.Exact, Stock: 9, Findings: Findings{UnitsSold: 9}, Targets: plan.Targets}
	run.Weigh(Challenged([]Round{round}, RecordsOf(s.rows, stocks, &round.Plan, nil)))
	return run
}

// A load that nothing raced for looks exact; the challenge after it does not.
func TestUnguardedShopIsCaughtByBursts(t *testing.T) {
	const pause = 20 * time.Millisecond
	for _, tt := range []struct {
		name string
		shop *shop
		want strategy.Verdict
		says string
	}{
		{"unguarded", &shop{pause: pause}, strategy.Oversold, "it was sold more than once in"},
		// Most bursts must be contended here: their goroutines may be late on a busy machine.
		{"guarded", &shop{pause: 5 * pause, guard: true}, strategy.Exact, "it was never sold twice"},
		{"limited to three orders", &shop{guard: true, decides: 3, pause: pause}, strategy.NotChallenged, "429 too-many-requests"},
		{"unguarded, but limited to one order", &shop{decides: 1}, strategy.NotChallenged, "Raise the limits of the service"},
		{"unguarded, but its proxy sheds all orders but one", &shop{decides: 1, sheds: 503}, strategy.NotChallenged, "Raise the limits of the service"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run := tt.shop.challenge(t)
			if c := run.Challenge; run.Verdict != tt.want || !strings.Contains(run.Sentence(), tt.says) {
				t.Errorf("got %s, want %s and %q; %d of %d bursts contended, %d sold twice\n%s", run.Verdict, tt.want, tt.says, c.Contended, c.Bursts, c.SoldTwice, run.Sentence())
			}
		})
	}
}

// burstOf returns the answers of a burst of ten at two targets. The first gets the unit and is
// answered after 10 ms; the others were sent at the given times, and refused 1 ms later.
func burstOf(refusal attack.Answer, sent ...time.Duration) []attack.Answer {
	answers := []attack.Answer{{Outcome: attack.Accepted, Status: 201, Done: 10 * time.Millisecond, Replica: refusal.Replica}}
	for i, at := range sent {
		a := refusal
		a.Seq, a.Sent, a.Done = i+1, at, at+time.Millisecond
		answers = append(answers, a)
	}
	return answers
}

func TestBurstIsContended(t *testing.T) {
	t.Parallel()
	soldOut := attack.Answer{Outcome: attack.SoldOut, Status: 409}
	const ms = time.Millisecond
	together := []time.Duration{0, 0, 0, ms, ms, 2 * ms, 9 * ms}
	for _, tt := range []struct {
		name    string
		answers []attack.Answer
		targets int
		want    bool
	}{
		{"seven others together", burstOf(soldOut, together...), 2, true},
		{"six others together", burstOf(soldOut, together[1:]...), 2, false},
		{"one of them later", burstOf(soldOut, append([]time.Duration{11 * ms}, together[1:]...)...), 2, false},
		{"busy with another order", burstOf(attack.Answer{Outcome: attack.Refused, Status: 503, Reason: "busy"}, together...), 2, true},
		{"a proxy sheds load", burstOf(attack.Answer{Outcome: attack.Refused, Status: 503, Reason: "no problem+json"}, together...), 2, false},
		{"a replica names itself only in a 201", append(burstOf(soldOut, together...), attack.Answer{Seq: 8, Outcome: attack.SoldOut, Status: 409, Replica: "a", Sent: time.Hour, Done: time.Hour}), 2, false},
		{"both targets are one replica", burstOf(attack.Answer{Outcome: attack.SoldOut, Status: 409, Replica: "a"}, together...), 2, false},
		{"over a request limit", burstOf(attack.Answer{Outcome: attack.Refused, Status: 429}, together...), 2, false},
		{"no answer", burstOf(attack.Answer{Outcome: attack.Ambiguous}, together...), 2, false},
		{"nobody got it", burstOf(soldOut, together...)[1:], 2, false},
	} {
		if got := IsContended(tt.answers, tt.targets); got != tt.want {
			t.Errorf("%s: contended %v, want %v", tt.name, got, tt.want)
		}
	}
	odd := burstOf(soldOut, make([]time.Duration, 14)...)
	for i := range odd {
		if odd[i].Seq%2 == 1 {
			odd[i].Status, odd[i].Outcome = 0, attack.Ambiguous
		}
	}
	if IsContended(odd, 2) {
		t.Error("a burst at one of two replicas counts as contended")
	}
}

func TestVerdictNeedsEvidence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		load, challenge strategy.Verdict
		contended       int
		want            strategy.Verdict
	}{
		{strategy.Exact, strategy.Exact, ContendedBursts, strategy.Exact},
		{strategy.Exact, strategy.Exact, ContendedBursts - 1, strategy.NotChallenged},
		{strategy.Exact, strategy.Failed, ContendedBursts, strategy.NotChallenged},
		{strategy.Exact, strategy.Oversold, 1, strategy.Oversold},
		{strategy.Lost, strategy.Oversold, 1, strategy.Oversold},
		{strategy.Lost, strategy.Undersold, 1, strategy.Lost},
		{strategy.Failed, strategy.Exact, 0, strategy.Failed},
		{strategy.Oversold, strategy.Exact, 0, strategy.Oversold},
	} {
		r := Run{Verdict: tt.load}
		r.Weigh(&Challenge{Contended: tt.contended, Needed: ContendedBursts, Outcome: Outcome{Verdict: tt.challenge}})
		if r.Verdict != tt.want {
			t.Errorf("%s under load, %s with %d contended bursts: got %s, want %s", tt.load, tt.challenge, tt.contended, r.Verdict, tt.want)
		}
	}
}
