package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// The service's list of orders serves the verdict like a database: also what no answer named
// is found.
func TestListOfOrdersIsReconciled(t *testing.T) {
	t.Parallel()
	plan := attack.Plan{Targets: []string{"unused"}, SKUs: []string{"lamp"}, MaxQuantity: 1, Rate: 3, Duration: time.Second, Seed: 1}
	answers := []attack.Answer{
		{Outcome: attack.Accepted, Status: http.StatusCreated, OrderID: uuid.New()},
		{Seq: 1, Outcome: attack.Accepted, Status: http.StatusCreated, OrderID: uuid.New()},
		{Seq: 2, Outcome: attack.Ambiguous},
	}
	const units = 9
	order := func(id uuid.UUID, customer, key string) string {
		if key != "" {
			key = `"idempotency_key":"` + key + `",`
		}
		return fmt.Sprintf(`{"id":%q,%s"customer":%q,"sku":"lamp","quantity":1,"status":"reserved"}`, id, key, customer)
	}
	for _, keys := range []bool{true, false} {
		var all []string
		for seq := range answers {
			o := plan.Order(seq)
			if !keys {
				o.Key = ""
			}
			id := answers[seq].OrderID
			if id == uuid.Nil {
				id = uuid.New()
			}
			all = append(all, order(id, o.Customer, o.Key))
		}
		first := plan.Order(0)
		for _, tt := range []struct {
			name                          string
			listed                        []string
			lost, duplicated, unexplained int
			want                          strategy.Verdict
		}{
			{"all", all[:2], 0, 0, 0, strategy.Failed}, // as one request has no answer
			{"also the order without an answer", all, 0, 0, 0, strategy.Failed},
			{"one is missing", all[1:], 1, 0, 0, strategy.Lost},
			{"one twice", append(slices.Clone(all), order(uuid.New(), first.Customer, map[bool]string{true: first.Key}[keys])), 0, 1, 1, strategy.Lost},
			{"one of nobody", append(slices.Clone(all), order(uuid.New(), "nobody", "k")), 0, 0, 1, strategy.Lost},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/v1/skus/") {
						_, _ = fmt.Fprintf(w, `{"sku":"lamp","units":%d,"available":%d}`, units, units-len(tt.listed))
						return
					}
					_, _ = io.WriteString(w, `{"items":[`+strings.Join(tt.listed, ",")+`]}`)
				}))
				defer server.Close()
				cmd := attackCmd{Targets: []string{server.URL}}
				records, err := cmd.read(t.Context(), nil, true, []proof.Round{{Plan: plan, Answers: answers, Units: units}})
				if err != nil {
					t.Fatal(err)
				}
				got := proof.Reconcile(plan.Order, answers, records)
				if got.Lost != tt.lost || got.Duplicated != tt.duplicated || got.Unexplained != tt.unexplained || len(got.Violations) > 0 || got.Verdict != tt.want {
					t.Errorf("got %s: %d lost, %d duplicated, %d unexplained, violations %v, want %+v", got.Verdict, got.Lost, got.Duplicated, got.Unexplained, got.Violations, tt)
				}
			})
		}
	}
}

// A service that adds up its units from its orders must not hide an oversell.
func TestUnitsAreThoseThatWerePutOnSale(t *testing.T) {
	t.Parallel()
	plan := attack.Plan{Targets: []string{"unused"}, SKUs: []string{"lamp"}, MaxQuantity: 1, Rate: 2, Duration: time.Second, Seed: 1}
	var answers []attack.Answer
	var listed []string
	for seq := range 2 {
		a := attack.Answer{Seq: seq, Outcome: attack.Accepted, Status: http.StatusCreated, OrderID: uuid.New()}
		answers = append(answers, a)
		o := plan.Order(seq)
		listed = append(listed, fmt.Sprintf(`{"id":%q,"idempotency_key":%q,"customer":%q,"sku":"lamp","quantity":1,"status":"reserved"}`, a.OrderID, o.Key, o.Customer))
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/skus/") {
			_, _ = io.WriteString(w, `{"sku":"lamp","units":2,"available":0}`)
			return
		}
		_, _ = io.WriteString(w, `{"items":[`+strings.Join(listed, ",")+`]}`)
	}))
	defer server.Close()
	cmd := attackCmd{Targets: []string{server.URL}}
	records, err := cmd.read(t.Context(), nil, true, []proof.Round{{Plan: plan, Answers: answers, Units: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if got := proof.Reconcile(plan.Order, answers, records); got.Verdict != strategy.Oversold || got.Oversold != 1 || !strings.Contains(fmt.Sprint(got.Violations), "units is 2, but 1 was put on sale") {
		t.Errorf("got %s, %d oversold, violations %v", got.Verdict, got.Oversold, got.Violations)
	}
}
