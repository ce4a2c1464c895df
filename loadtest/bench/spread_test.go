package bench

import (
	"math"
	"strings"
	"testing"
)

// shares is the share of turns of each SKU.
func shares(l Load) map[string]float64 {
	counts := map[string]float64{}
	for _, sku := range l.Turns {
		counts[sku] += 1 / float64(len(l.Turns))
	}
	return counts
}

func load(t *testing.T, name string) Load {
	t.Helper()
	l, err := ParseLoad(name, 7)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEvenLoadHasEqualShares(t *testing.T) {
	for _, tt := range []struct {
		name string
		skus int
	}{{"hot", 1}, {"even:100", 100}, {"even:1000", 1000}} {
		got := shares(load(t, tt.name))
		if len(got) != tt.skus {
			t.Errorf("%s has %d SKUs, want %d", tt.name, len(got), tt.skus)
		}
		for sku, share := range got {
			if want := 1 / float64(tt.skus); math.Abs(share-want) > 1e-9 {
				t.Errorf("%s: %s has %g of the turns, want %g", tt.name, sku, share, want)
			}
		}
	}
}

// TestZipfHasItsExponent compares ranks with large counts, which vary little.
func TestZipfHasItsExponent(t *testing.T) {
	l := load(t, "zipf:1000")
	got := shares(l)
	sum := 0.0
	for k := 1; k <= 1000; k++ {
		sum += math.Pow(float64(k), -zipfExponent)
	}
	for _, rank := range []int{1, 2, 5, 20} {
		want := math.Pow(float64(rank), -zipfExponent) / sum
		if share := got[skuName(rank-1)]; math.Abs(share/want-1) > 0.1 {
			t.Errorf("rank %d has %.4f of the turns, want %.4f", rank, share, want)
		}
	}
	for _, item := range l.Items {
		if math.Abs(item.Share-got[item.SKU]) > 1e-9 {
			t.Errorf("%s has Share %g, but %g of the turns", item.SKU, item.Share, got[item.SKU])
		}
	}
	if again := load(t, "zipf:1000"); strings.Join(again.Turns, " ") != strings.Join(l.Turns, " ") {
		t.Error("the same seed returned different turns")
	}
}

func TestNineOfTenRequestsAreSoldOut(t *testing.T) {
	l := load(t, "sold-out")
	got := shares(l)
	soldOut := 0.0
	for i, item := range l.Items {
		if item.SoldOut {
			soldOut += got[item.SKU]
			if units := l.units(i, 1000); units != 0 {
				t.Errorf("%s is sold out but has %d units", item.SKU, units)
			}
		}
	}
	if math.Abs(soldOut-0.9) > 1e-9 {
		t.Errorf("got %.3f of the requests for sold-out SKUs, want 0.9", soldOut)
	}
}

// TestNothingSellsOut: a run must not end because it has no units left.
func TestNothingSellsOut(t *testing.T) {
	const orders = 100_000
	for _, name := range LoadNames {
		l := load(t, name)
		asked := map[string]int64{}
		for seq := range orders {
			asked[l.Turns[seq/2%len(l.Turns)]]++
		}
		for i, item := range l.Items {
			if units := l.units(i, orders); !item.SoldOut && units < asked[item.SKU] {
				t.Errorf("%s: %s has %d units for %d orders", name, item.SKU, units, asked[item.SKU])
			}
		}
	}
}

func TestUnknownLoadIsAnError(t *testing.T) {
	for _, name := range []string{"", "cold", "even", "even:", "even:0", "even:x", "even:1000000", "hot:2", "zipf", "zipf:-1", "sold-out:3"} {
		if _, err := ParseLoad(name, 1); err == nil || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("load %q: got %v, want an error with that name", name, err)
		}
	}
}
