package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Load says how buyers choose SKUs.
type Load struct {
	// Name is as requested: "zipf:1000".
	Name string
	// Items are the SKUs on sale.
	Items []Item
	// Turns are the SKUs in the order in which they are bought. They repeat.
	Turns []string
}

// Item is one SKU on sale.
type Item struct {
	SKU string
	// Share is the share of all requests for this SKU.
	Share float64
	// SoldOut: there are no units.
	SoldOut bool
}

const (
	// zipfExponent is typical of a shop's bestseller list.
	zipfExponent = 1.1
	// zipfTurns are enough for the rarest of 1,000 SKUs to occur a few times.
	zipfTurns = 1 << 16
	// soldOutSKUs are the SKUs of the sold-out load. All but one have no units.
	soldOutSKUs = 10
	// maxSKUs bounds the SKUs, each of which takes a call to create.
	maxSKUs = 10_000
)

// LoadNames are the loads of the standard programme.
var LoadNames = []string{"hot", "even:100", "even:1000", "zipf:1000", "sold-out"}

// ParseLoad returns the load of that name: hot, even:N, zipf:N (with seed) or sold-out.
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
	return Load{}, fmt.Errorf("unknown load %q: must be hot, even:N, zipf:N or sold-out", name)
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

// zipf draws each turn independently.
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

func skuName(i int) string { return fmt.Sprintf("sku-%05d", i+1) }

const (
	// unitsMargin is the stock of an item, relative to its share of the orders.
	unitsMargin = 1.25
	// unitsLeast is added for items with few orders, whose number varies.
	unitsLeast = 100
)

// units is the stock that item i needs for that many orders over all items.
func (l *Load) units(i int, orders int) int64 {
	if l.Items[i].SoldOut {
		return 0
	}
	return int64(math.Ceil(l.Items[i].Share*float64(orders)*unitsMargin)) + unitsLeast
}

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
