package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Load says how buyers are spread over SKUs.
type Load struct {
	// Name is as it was asked for: "zipf:1000".
	Name string
	// Items are the SKUs on sale.
	Items []Item
	// Turns are the SKUs in the order in which they are bought, again and again.
	Turns []string
}

// Item is one SKU on sale.
type Item struct {
	SKU string
	// Share of all requests asks for it.
	Share float64
	// SoldOut: it has no units.
	SoldOut bool
}

const (
	// zipfExponent is the steepness of a shop's bestseller list.
	zipfExponent = 1.1
	// zipfTurns are enough for the rarest of 1,000 SKUs to have its turn a few
	// times, so that the shares are those of the distribution.
	zipfTurns = 1 << 16
	// soldOutSKUs is how many SKUs the sold-out load has; but one of them has
	// nothing left, so that nine requests of ten are refused.
	soldOutSKUs = 10
	// maxSKUs bounds what is created, a call each, before a run.
	maxSKUs = 10_000
)

// LoadNames are the loads of the standard programme.
var LoadNames = []string{"hot", "even:100", "even:1000", "zipf:1000", "sold-out"}

// ParseLoad makes the load of that name: hot, even:N, zipf:N or sold-out. The
// seed draws the turns of a zipf.
func ParseLoad(name string, seed uint64) (Load, error) {
	kind, count, counted := strings.Cut(name, ":")
	n := 0
	if counted {
		var err error
		if n, err = strconv.Atoi(count); err != nil || n < 1 || n > maxSKUs {
			return Load{}, fmt.Errorf("load %q: the number of SKUs must be from 1 to %d", name, maxSKUs)
		}
	}
	switch {
	case kind == "hot" && !counted:
		return even(name, 1), nil
	case kind == "even" && counted:
		return even(name, n), nil
	case kind == "zipf" && counted:
		return zipf(name, n, seed), nil
	case kind == "sold-out" && !counted:
		load := even(name, soldOutSKUs)
		for i := range load.Items[1:] {
			load.Items[1+i].SoldOut = true
		}
		return load, nil
	}
	return Load{}, fmt.Errorf("unknown load %q: hot, even:N, zipf:N or sold-out", name)
}

func even(name string, n int) Load {
	load := Load{Name: name}
	for i := range n {
		sku := skuName(i)
		load.Items = append(load.Items, Item{SKU: sku, Share: 1 / float64(n)})
		load.Turns = append(load.Turns, sku)
	}
	return load
}

// zipf draws each turn by itself, as strangers choose.
func zipf(name string, n int, seed uint64) Load {
	load := Load{Name: name, Turns: make([]string, zipfTurns)}
	for i := range n {
		load.Items = append(load.Items, Item{SKU: skuName(i)})
	}
	draw := rand.NewZipf(rand.New(rand.NewPCG(seed, zipfTurns)), zipfExponent, 1, uint64(n-1))
	for turn := range load.Turns {
		item := &load.Items[draw.Uint64()]
		item.Share += 1.0 / zipfTurns
		load.Turns[turn] = item.SKU
	}
	return load
}

// skuName sorts as it counts.
func skuName(i int) string { return fmt.Sprintf("sku-%05d", i+1) }

const (
	// unitsMargin is how much more than its share of the orders an item has.
	unitsMargin = 1.25
	// unitsLeast is for items that are hardly asked for, and then by chance.
	unitsLeast = 100
)

// units are what item i needs not to be sold out by so many orders in all.
func (l *Load) units(i int, orders int) int64 {
	if l.Items[i].SoldOut {
		return 0
	}
	return int64(math.Ceil(l.Items[i].Share*float64(orders)*unitsMargin)) + unitsLeast
}

// stock is the units of all items.
func (l *Load) stock(orders int) (total int64) {
	for i := range l.Items {
		total += l.units(i, orders)
	}
	return total
}

func (l *Load) skus() []string {
	names := make([]string, len(l.Items))
	for i := range l.Items {
		names[i] = l.Items[i].SKU
	}
	return names
}
