package attack

import (
	"strings"
	"testing"
	"time"
)

func TestNoTwoRequestsShareACustomerOrAKey(t *testing.T) {
	p := Plan{Targets: []string{"http://a"}, SKUs: []string{"one"}, MaxQuantity: 1, Seed: 42}
	customers, keys := map[string]bool{}, map[string]bool{}
	const n = 200_000
	for seq := range n {
		o := p.Order(seq)
		customers[o.Customer], keys[o.Key] = true, true
	}
	if len(customers) != n || len(keys) != n {
		t.Errorf("%d customers and %d keys for %d requests", len(customers), len(keys), n)
	}
}

func TestEverySKUIsSoldByEveryReplica(t *testing.T) {
	for _, n := range []struct{ replicas, skus int }{{1, 1}, {3, 1}, {3, 3}, {2, 4}, {3, 2}} {
		p := Plan{Targets: make([]string, n.replicas), SKUs: make([]string, n.skus)}
		pairs := map[[2]int]int{}
		rounds := 10
		for seq := range n.replicas * n.skus * rounds {
			pairs[[2]int{p.target(seq), p.sku(seq)}]++
		}
		if len(pairs) != n.replicas*n.skus {
			t.Errorf("%+v: %d pairs, want each SKU at each replica", n, len(pairs))
		}
		for pair, count := range pairs {
			if count != rounds {
				t.Errorf("%+v: pair %v has %d requests, want %d", n, pair, count, rounds)
			}
		}
	}
}

func TestQuantitiesAreSpread(t *testing.T) {
	p := Plan{Targets: []string{"http://a"}, SKUs: []string{"one"}, MaxQuantity: 4, Seed: 3}
	var counts [6]int
	for seq := range 4000 {
		counts[p.Order(seq).Quantity]++
	}
	if counts[0]+counts[5] != 0 {
		t.Errorf("quantities outside of 1 to 4: %v", counts)
	}
	for q := 1; q <= 4; q++ {
		if counts[q] < 850 || counts[q] > 1150 {
			t.Errorf("quantity %d came %d times of 4000", q, counts[q])
		}
	}
}

func TestPlanNamesTheBadFlag(t *testing.T) {
	good := Plan{Targets: []string{"http://a"}, SKUs: []string{"one"}, MaxQuantity: 1, Rate: 100, Duration: time.Second}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for flag, spoil := range map[string]func(*Plan){
		"--target":       func(p *Plan) { p.Targets = nil },
		"--skus":         func(p *Plan) { p.SKUs = nil },
		"--max-quantity": func(p *Plan) { p.MaxQuantity = 0 },
		"--rate must":    func(p *Plan) { p.Rate = 0 },
		"--rate must be": func(p *Plan) { p.Rate = -5 },
		"--duration":     func(p *Plan) { p.Duration = 0 },
		"--duration 1ns": func(p *Plan) { p.Duration = 1 },
		"more than":      func(p *Plan) { p.Duration = 1 << 62 },
	} {
		p := good
		spoil(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("got %v, want an error that names %q", err, flag)
		}
	}
}

func TestOrderIsAFunctionOfSeedAndSeq(t *testing.T) {
	p := Plan{Targets: []string{"a", "b"}, SKUs: []string{"one", "two"}, MaxQuantity: 9, Seed: 11}
	again, other := p, p
	other.Seed++
	for seq := range 1000 {
		if p.Order(seq) != again.Order(seq) {
			t.Fatalf("request %d: the same plan sends another order", seq)
		}
		if p.Order(seq).Customer == other.Order(seq).Customer {
			t.Fatalf("request %d: another seed sends the same customer", seq)
		}
	}
}
