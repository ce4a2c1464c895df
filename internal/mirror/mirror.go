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

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/stock"
)

const (
	// retryPause and retryPauseMax are the waits after a server did not answer.
	retryPause    = 20 * time.Millisecond
	retryPauseMax = time.Second
)

// Config is what a Mirror is made of. Everything in it is required unless its
// comment says otherwise.
type Config struct {
	Client *clientv3.Client
	// Prefix of all keys. It names the database: two databases must not share it.
	Prefix string
	// DB is only read, by two connections at most. A pool of its own keeps the
	// mirror from waiting behind orders.
	DB *stock.DB
	// Metrics may be nil.
	Metrics *Metrics
	// Logger gets the errors that are returned to nobody. Optional.
	Logger *slog.Logger

	// at, when set, is called as a write reaches each step: tests hold it there.
	at func(step, []string)
	// compareEvery is the constant of that name, unless a test sets another. A
	// negative one stops the comparison.
	compareEvery time.Duration
}

// Mirror is one replica's part of the mirror: its view of all entries, and the
// writing of those that this replica has changed. Its methods are safe for
// concurrent use. They answer from memory; before Run the view is not current.
type Mirror struct {
	cfg   Config
	wake  chan struct{} // an entry is to be written
	doubt chan struct{} // the view may lack entries

	mu sync.RWMutex // guards all below; never held over I/O

	// The view.
	synced   bool      // the watch works, and its beginning was listed
	heard    time.Time // when etcd last answered on the watch
	revision int64     // of etcd, that the view is as of
	items    map[string]*item
	names    []string // the SKUs of items, in byte order
	complete bool     // a comparison found all SKUs of MySQL in items
	removed  int      // how often entries left items
	next     chan struct{}

	// What is to be written: see write.go.
	pending   map[string]change
	urgent    []string
	ordinary  []string
	nextBatch time.Time // of ordinary changes
}

// item is an Entry in the view. It does not change.
type item struct {
	Entry
	revision int64     // the key's mod revision
	seen     time.Time // when this replica saw that revision
}

// New makes a Mirror. It does nothing before Run.
func New(cfg Config) (*Mirror, error) {
	switch {
	case cfg.Client == nil:
		return nil, errors.New("mirror: no etcd client")
	case cfg.DB == nil:
		return nil, errors.New("mirror: no database")
	case cfg.Prefix == "":
		return nil, errors.New("mirror: no prefix")
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.at == nil {
		cfg.at = func(step, []string) {}
	}
	if cfg.compareEvery == 0 {
		cfg.compareEvery = compareEvery
	}
	return &Mirror{
		cfg: cfg, wake: make(chan struct{}, 1), doubt: make(chan struct{}, 1),
		items: map[string]*item{}, pending: map[string]change{},
	}, nil
}

// Run follows etcd, writes, and compares until ctx ends. Then it writes what is
// still to be written, within flushTimeout, and returns nil when all that it
// started has ended. It must be called once.
func (m *Mirror) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { m.follow(ctx) })
	parts.Go(func() { m.write(ctx) })
	if m.cfg.compareEvery > 0 {
		parts.Go(func() { m.compare(ctx) })
	}
	parts.Wait()
	m.desync()
	return nil
}

// Get returns a SKU as the view has it: a fraction of a second behind MySQL. It
// reports false, and the caller has to ask MySQL, when the view is not current or
// does not have the SKU.
func (m *Mirror) Get(sku string) (Entry, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	it := m.items[sku]
	if it == nil || !m.current() {
		return Entry{}, false
	}
	return it.Entry, true
}

// List returns up to limit SKUs that sort after the given one, in byte order. It
// reports false, and the caller has to ask MySQL, when the view is not current
// or may lack SKUs.
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
	list := make([]Entry, min(limit, len(names)))
	for i := range list {
		list[i] = m.items[names[i]].Entry
	}
	return list, true
}

// Count is how many SKUs the view has. It reports false where List would.
func (m *Mirror) Count() (int, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.names), m.current() && m.complete
}

// Next returns a channel that is closed when the view changes, any SKU of it, or
// whether it is current. To follow a SKU: take the channel, then Get, then wait.
func (m *Mirror) Next() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == nil {
		m.next = make(chan struct{})
	}
	return m.next
}

// Since returns, in byte order, the entries that were put after a revision of
// etcd, and the revision that the view is at, to be given the next time. 0 is
// before everything. It reports false when the view is not current. Whoever
// follows the view by Next and Since misses no SKU's last change, and needs no
// copy of those that did not change.
func (m *Mirror) Since(revision int64) (changed []Entry, now int64, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.current() {
		return nil, revision, false
	}
	if revision > m.revision {
		revision = 0 // of an etcd that was restored since
	}
	for _, sku := range m.names {
		if it := m.items[sku]; it.revision > revision {
			changed = append(changed, it.Entry)
		}
	}
	return changed, m.revision, true
}

// Await waits until the view shows the SKU as it was at seq, or later: whoever
// has committed that may then read it here. It returns ctx's error at ctx's end.
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

// current reports whether the view follows etcd. A process that was stopped finds
// its view as it was before: so the time counts as well. m.mu is held.
func (m *Mirror) current() bool { return m.synced && time.Since(m.heard) < silence }

// signal wakes a goroutine that looks for all there is to do.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
