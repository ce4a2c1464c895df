package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/stock"
)

const (
	// maxAge is how old the last comparison of an entry with MySQL may be while
	// orders are refused on its word.
	maxAge = time.Second
	// healthyFor is how long the view is trusted to be current after the last
	// record of the comparer, of which four a second are due.
	healthyFor = 2 * time.Second
	// flushTimeout bounds the writing of what is still to be written at the end.
	flushTimeout = time.Second
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
	// DB is read only. A small pool of its own keeps the mirror from waiting
	// behind orders; it needs four connections at most.
	DB *stock.DB
	// Replica is shown to people in the comparer's record. Optional.
	Replica string
	// Metrics may be nil.
	Metrics *Metrics
	// Logger gets what no caller is told. Optional.
	Logger *slog.Logger

	// at, when set, is called as a write reaches each step: tests hold it there.
	at func(step, []string)
	// noCompare makes a Mirror whose turn to compare never comes.
	noCompare bool
}

// Mirror is one replica's part of the mirror: its view of all entries, and the
// writing of those that this replica has changed. Its methods may be called at
// the same time. They answer from memory, and before Run that nothing is known.
type Mirror struct {
	cfg   Config
	id    string // of this Mirror, in the comparer's record
	seeds [2]maphash.Seed
	wake  chan struct{} // something is to be written
	fetch chan struct{} // buyers are to be loaded
	ask   chan struct{} // refusals are to be confirmed
	// confirming are the refusals that wait for etcd's word.
	confirming confirming

	mu sync.RWMutex // guards all below; held for short, and never over I/O

	// The view.
	synced   bool             // the watch is open, and its beginning was listed
	revision int64            // of etcd, that the view is as of
	items    map[string]*item // by SKU
	names    []string         // the SKUs of items, in byte order
	next     chan struct{}    // closed at the next change of the view; nil if nobody waits
	record   record           // the comparer's last
	asOf     time.Time        // what the record says was true at some time after this
	samples  []sample         // that date records; the newest last

	// What is to be written: see write.go.
	pending map[string]change
	queues  [classes][]string
	// committed is since when a commit of this replica waits to be shown.
	committed map[string]time.Time

	// What is to be loaded: see buyers.go.
	unloaded map[string]struct{}
	hashes   int // in all sets of buyers
}

// item is an Entry in the view, with what is known about it.
type item struct {
	Entry
	revision int64     // the key's mod revision
	learned  time.Time // when this replica learned of that revision
	// turn is how much longer than the spacing this replica waits before it
	// writes units that went up or down. All who sell the SKU would otherwise
	// write at the same moment, and all but one in vain.
	turn time.Duration
	// wrong: the key holds something older than Entry, or nothing readable.
	// Nothing is answered from it until it has been written again.
	wrong bool
	// doubted: this replica has committed units that Entry does not show yet.
	doubted bool
	buyers  *buyers // those of an earlier Seq, or of this one; or nil
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
	if cfg.Replica == "" {
		cfg.Replica = fmt.Sprint("pid ", os.Getpid())
	}
	if cfg.at == nil {
		cfg.at = func(step, []string) {}
	}
	return &Mirror{
		cfg: cfg,
		// A replica that was started again is another one: it has compared nothing.
		id:    fmt.Sprintf("%s/%016x", cfg.Replica, rand.Uint64()),
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		wake:  make(chan struct{}, 1), fetch: make(chan struct{}, 1), ask: make(chan struct{}, 1),
		items: map[string]*item{}, pending: map[string]change{}, committed: map[string]time.Time{}, unloaded: map[string]struct{}{},
	}, nil
}

// Run keeps the view, writes, and takes its turn at comparing, until ctx ends.
// Then it writes what is still to be written, within a second, and returns nil
// when all that it started has ended. It must be called once.
func (m *Mirror) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { m.follow(ctx) })
	parts.Go(func() { m.write(ctx) })
	parts.Go(func() { m.load(ctx) })
	parts.Go(func() { m.takeSamples(ctx) })
	parts.Go(func() { m.confirm(ctx) })
	if !m.cfg.noCompare {
		parts.Go(func() { m.compare(ctx) })
	}
	parts.Wait()
	m.desync()
	return nil
}

// Get returns a SKU as the view has it: at most a few hundredths of a second
// behind MySQL while etcd is well. It reports false, and the caller has to ask
// MySQL, when the view is not healthy or does not have the SKU.
func (m *Mirror) Get(sku string) (Entry, bool) {
	now := time.Now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	it := m.items[sku]
	if it == nil || it.wrong || !m.healthy(now) {
		return Entry{}, false
	}
	return it.Entry, true
}

// List returns up to limit SKUs that sort after the given one, in byte order. It
// reports false, and the caller has to ask MySQL, when the view is not healthy
// or was not yet seen to hold every SKU.
func (m *Mirror) List(after string, limit int) ([]Entry, bool) {
	now := time.Now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.healthy(now) || !m.record.Complete {
		return nil, false
	}
	from, found := slices.BinarySearch(m.names, after)
	if found {
		from++
	}
	list := make([]Entry, 0, min(limit, len(m.names)-from))
	for _, sku := range m.names[from:] {
		it := m.items[sku]
		if it.wrong {
			return nil, false
		}
		if len(list) == limit {
			break
		}
		list = append(list, it.Entry)
	}
	return list, true
}

// Count is how many SKUs the view has. It reports false where List would.
func (m *Mirror) Count() (int, bool) {
	now := time.Now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.names), m.healthy(now) && m.record.Complete
}

// SoldOut reports whether an order of that customer under that key may be
// refused without asking MySQL: the SKU had no units less than a second ago, and
// no order that was answered before the call stands under the key. False says
// nothing. It takes a few milliseconds, in which etcd is asked.
func (m *Mirror) SoldOut(ctx context.Context, sku, customer, key string) bool {
	revision, ok := m.soldOut(sku, customer, key)
	return ok && m.newest(ctx, sku, revision)
}

// soldOut is SoldOut as far as the view knows, and the mod revision of the entry
// that it knows it from. It does not allocate.
func (m *Mirror) soldOut(sku, customer, key string) (revision int64, ok bool) {
	m.mu.RLock()
	it := m.items[sku]
	if it == nil || !m.refusable(it) || time.Since(m.asOf) > maxAge {
		m.mu.RUnlock()
		return 0, false
	}
	set, revision := it.buyers.hashes, it.revision // hashes are never changed once they are there
	m.mu.RUnlock()
	_, bought := slices.BinarySearch(set, m.hash(customer, key))
	return revision, !bought
}

// refusable reports whether the entry is one to refuse by, at the time that the
// comparer's record speaks of. m.mu is held.
func (m *Mirror) refusable(it *item) bool {
	return m.synced && it.Available <= 0 && !it.wrong && !it.doubted && !m.record.except[it.SKU] &&
		// What came after the comparer had looked was not compared.
		it.revision <= m.record.Compared &&
		it.buyers != nil && it.buyers.seq == it.Seq
}

// Next returns a channel that is closed when the view changes, any SKU of it. To
// follow a SKU: take the channel, then Get, then wait.
func (m *Mirror) Next() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == nil {
		m.next = make(chan struct{})
	}
	return m.next
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

// Shown waits until every replica can know that the SKU came to seq: etcd has had
// an entry of that seq, or a later one. It returns ctx's error at ctx's end.
func (m *Mirror) Shown(ctx context.Context, sku string, seq uint64) error {
	for {
		next := m.Next()
		m.mu.RLock()
		it := m.items[sku]
		// Nor need the view be healthy: entries follow each other.
		shown := it != nil && !it.wrong && it.Seq >= seq
		m.mu.RUnlock()
		if shown {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("show %s in the mirror: %w", sku, ctx.Err())
		}
	}
}

// healthy reports whether the view follows etcd. m.mu is held.
func (m *Mirror) healthy(now time.Time) bool {
	return m.synced && now.Sub(m.record.received) < healthyFor
}

// hash stands for one customer's key. Two that differ may share it, and the
// second is then taken for a buyer: it costs his refusal a way to the desk.
func (m *Mirror) hash(customer, key string) uint64 {
	return maphash.String(m.seeds[0], customer) ^ maphash.String(m.seeds[1], key)
}

// signal wakes a goroutine that looks for all there is to do.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
