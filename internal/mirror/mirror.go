package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/stock"
)

// Config configures a Mirror. Fields are required unless their comment says
// otherwise.
type Config struct {
	Client *clientv3.Client
	Prefix string // of all keys. It names the database: two databases must not share it.
	// DB is only read, on at most two connections. A pool of its own keeps the
	// mirror from waiting behind orders.
	DB       *stock.DB
	Registry prometheus.Registerer // of the metrics; optional
	Logger   *slog.Logger          // gets the errors that no caller sees. Optional.

	// beforePut, if set, is called after a write has read MySQL and before it puts
	// the entries: tests hold it there.
	beforePut func()
	// compareEvery is the constant of that name, unless a test sets another. A
	// negative value disables the comparison.
	compareEvery time.Duration
}

// Mirror is one replica's part of the mirror: its view of all entries, and the
// writer of those that this replica changes. Its methods are safe for concurrent
// use and answer from memory. Before Run the view is not current.
type Mirror struct {
	cfg         Config
	metrics     *metrics
	wake        chan struct{} // an entry was marked
	mayLackSKUs chan struct{} // the view may lack entries
	announces   chan struct{} // an entry with a later announcement was seen

	mu sync.RWMutex // guards the fields below except ahead; never held over I/O

	// The view.
	synced   bool      // the watch works, and all keys were listed
	heard    time.Time // when etcd last answered on the watch
	revision int64     // the revision of etcd that the view shows
	changes  int64     // counts the changes of items
	items    map[string]*item
	upcoming map[string]time.Time // the announcements of items that are not listed yet
	names    []string             // the SKUs of items, in byte order
	complete bool                 // a comparison found all SKUs of MySQL in items
	removed  int                  // how often entries left items
	next     chan struct{}

	// The entries to write: see write.go.
	pending   map[string]change
	urgent    []string
	ordinary  []string
	nextBatch time.Time // of ordinary changes

	// ahead has the entries that the last comparison found newer than MySQL. Only
	// the goroutine of compare uses it.
	ahead map[string]sighting
}

// Entry is the copy of one SKU's stock row: its public columns, and its seq. In
// etcd it is JSON, under the prefix and the SKU.
type Entry = stock.Stock

// item is an Entry in the view. It is immutable.
type item struct {
	Entry
	revision int64     // the key's mod revision
	change   int64     // the number of its last change in the view
	listed   bool      // see stock.Stock.Listed; by this replica's clock
	seen     time.Time // when this replica saw that revision
}

// New makes a Mirror. It does nothing before Run.
func New(cfg Config) (*Mirror, error) {
	if cfg.Client == nil || cfg.DB == nil || cfg.Prefix == "" {
		return nil, errors.New("mirror: Client, DB and Prefix are required")
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.beforePut == nil {
		cfg.beforePut = func() {}
	}
	if cfg.compareEvery == 0 {
		cfg.compareEvery = compareEvery
	}
	m := &Mirror{
		cfg: cfg, wake: make(chan struct{}, 1), mayLackSKUs: make(chan struct{}, 1), announces: make(chan struct{}, 1),
		items: map[string]*item{}, upcoming: map[string]time.Time{}, pending: map[string]change{},
	}
	m.metrics = newMetrics(cfg.Registry, m)
	return m, nil
}

// Run follows etcd, writes and compares until ctx ends. Then it writes the pending
// entries, within flushTimeout, and returns nil when its goroutines have ended. It
// must be called once.
func (m *Mirror) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { m.follow(ctx) })
	parts.Go(func() { m.announce(ctx) })
	parts.Go(func() { m.write(ctx) })
	if m.cfg.compareEvery > 0 {
		parts.Go(func() { m.compare(ctx) })
	}
	parts.Wait()
	m.desync()
	return nil
}

// Get returns a SKU of the view, listed or not, which is a fraction of a second behind
// MySQL. It reports false if the view is not current or lacks the SKU: the caller must
// then ask MySQL.
func (m *Mirror) Get(sku string) (Entry, bool) {
	it := m.item(sku)
	if it == nil {
		return Entry{}, false
	}
	return it.Entry, true
}

func (m *Mirror) item(sku string) *item {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.current() {
		return nil
	}
	return m.items[sku]
}

// List returns up to limit listed SKUs that sort after the given one, in byte order. It
// reports false if the view is not current or may lack SKUs: the caller must then
// ask MySQL.
func (m *Mirror) List(after string, limit int) ([]Entry, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.current() || !m.complete {
		return nil, false
	}
	from, found := slices.BinarySearch(m.names, after)
	if found {
		from++
	}
	names := m.names[from:]
	list := make([]Entry, 0, min(limit, len(names)))
	for i := 0; i < len(names) && len(list) < limit; i++ {
		if it := m.items[names[i]]; it.listed {
			list = append(list, it.Entry)
		}
	}
	return list, true
}

// Count returns the number of listed SKUs in the view. It reports false when List would.
func (m *Mirror) Count() (n int, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, it := range m.items {
		if it.listed {
			n++
		}
	}
	return n, m.current() && m.complete
}

// Next returns a channel that is closed when any SKU of the view changes, or when the
// view becomes current or stale. To follow a SKU: take the channel, then Get, then wait.
func (m *Mirror) Next() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == nil {
		m.next = make(chan struct{})
	}
	return m.next
}

// Since returns, in byte order, the SKUs that changed in the view or were announced after
// a change, and the number of the last change, to be passed the next time. 0 returns all
// SKUs. It reports false if the view is not current. A caller that follows the view by Next
// and Since sees the last change of each SKU, and needs no copy of the view.
func (m *Mirror) Since(change int64) (changed []stock.Level, now int64, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.current() {
		return nil, change, false
	}
	for _, sku := range m.names {
		if it := m.items[sku]; it.change > change {
			changed = append(changed, stock.Level{SKU: sku, Units: it.Units, Available: it.Available, Seq: it.Seq, Unlisted: !it.listed})
		}
	}
	return changed, m.changes, true
}

// Await waits until the view shows the SKU as it was at seq, or later. A caller
// that has committed seq may then read its own write here. It returns ctx's error
// when ctx ends.
func (m *Mirror) Await(ctx context.Context, sku string, seq uint64) error {
	for {
		next := m.Next()
		if e, ok := m.Get(sku); ok && e.Seq >= seq {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s in the mirror: %w", sku, ctx.Err())
		}
	}
}

// current reports whether the view follows etcd. It compares the time as well: a
// process that was stopped resumes with an old view. The caller holds m.mu.
func (m *Mirror) current() bool { return m.synced && time.Since(m.heard) < silence }

// signal wakes the goroutine that receives from c.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Catalog reads the listed SKUs from the view, and from MySQL while the view cannot answer.
// Its answers may be a fraction of a second old. It is safe for concurrent use.
type Catalog struct {
	Mirror *Mirror
	DB     *stock.DB
}

// Get reads one listed SKU, or returns stock.ErrUnknownSKU.
func (c Catalog) Get(ctx context.Context, sku string) (stock.Stock, error) {
	switch it := c.Mirror.item(sku); {
	case it == nil:
		return stock.Catalog{DB: c.DB}.Get(ctx, sku)
	case !it.listed:
		return stock.Stock{}, stock.ErrUnknownSKU
	default:
		return it.Entry, nil
	}
}

// List reads up to limit listed SKUs that sort after the given one, in byte order.
func (c Catalog) List(ctx context.Context, after string, limit int) ([]stock.Stock, error) {
	if list, ok := c.Mirror.List(after, limit); ok {
		return list, nil
	}
	return stock.Catalog{DB: c.DB}.List(ctx, after, limit)
}

// Count returns the number of listed SKUs.
func (c Catalog) Count(ctx context.Context) (int, error) {
	if n, ok := c.Mirror.Count(); ok {
		return n, nil
	}
	return stock.Catalog{DB: c.DB}.Count(ctx)
}
