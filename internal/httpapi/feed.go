package httpapi

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

const (
	// feedSpacing is the minimum time between two reads of the stock, and feedShare the
	// minimum for each stream. An event costs about 10 us of CPU (-bench Events), so a SKU's
	// events use at most a seventh of a core. With 5,000 streams, the feed reads the stock
	// at most every 350 ms.
	feedSpacing = 50 * time.Millisecond
	feedShare   = 70 * time.Microsecond
	// Streams are woken wakeBatch at a time, with a pause of wakeRest. Go's scheduler looks
	// for network events only when no goroutine can run: thousands that write one after
	// another would stop the seller, which waits for MySQL's answer.
	wakeBatch = 100
	wakeRest  = time.Millisecond
	// Without a view, the feed polls every pollSpacing, or, if MySQL is slow, after
	// pollRest times the duration of the last poll.
	pollSpacing = 250 * time.Millisecond
	pollRest    = 10
	pollTimeout = 2 * time.Second
	// beatSpacing is the time between two looks at every stream whether it needs a heartbeat.
	beatSpacing = heartbeat / 2
)

// View is a copy of all stock in memory. Next returns a channel that is closed when
// the view changes, or becomes valid or invalid.
type View interface {
	Next() <-chan struct{}
	Since(change int64) (changed []stock.Level, now int64, ok bool)
}

// feeds counts the open streams of this replica, and runs the one feed that they share
// while a stream is open.
type feeds struct {
	open               func() source // opens the source of a new feed
	max, maxPerAddress int           // open streams
	draining           <-chan struct{}
	sent               prometheus.Counter

	mu        sync.Mutex
	streams   int
	byAddress map[netip.Prefix]int // open streams, without zeros
	feed      *feed
	stop      func() // ends the feed and waits for it
}

func newFeeds(cfg *Config) *feeds {
	f := &feeds{draining: cfg.Draining, max: cmp.Or(cfg.MaxStreams, defaultStreams), byAddress: map[netip.Prefix]int{}}
	f.maxPerAddress = cmp.Or(cfg.MaxStreamsAddress, max(f.max/addressShare, addressMin))
	f.open = func() source {
		switch {
		case cfg.View != nil:
			return follow(cfg.View)
		case cfg.Levels != nil:
			return poll(cfg.Levels)
		}
		return poll(cfg.Stock.Levels)
	}
	f.sent = promauto.With(cfg.Registry).NewCounter(prometheus.CounterOpts{Name: "flashsale_http_events_sent_total",
		Help: "Events sent on all event streams."})
	promauto.With(cfg.Registry).NewGaugeFunc(prometheus.GaugeOpts{Name: "flashsale_http_event_streams", Help: "Open event streams."},
		func() float64 { return float64(f.count()) })
	return f
}

// join registers a stream of an address, until leave is called. It returns a problem
// if there are too many.
func (f *feeds) join(from netip.Prefix) (joined *feed, leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams >= f.max {
		busy := problemOf(order.ErrBusy)
		busy.Detail = "This replica has as many open streams as it can serve. Retry later."
		return nil, nil, busy
	}
	if f.byAddress[from] >= f.maxPerAddress {
		return nil, nil, kindTooMany.problem(fmt.Sprintf("The limit is %d open streams by address. Close one, or wait Retry-After seconds, then retry.",
			f.maxPerAddress))
	}
	f.byAddress[from]++
	if f.streams++; f.streams == 1 {
		ctx, cancel := context.WithCancel(context.Background()) // the feed outlives this stream
		feed := &feed{source: f.open(), streams: f.count, topics: map[string]*topic{}, recent: list.New()}
		var running sync.WaitGroup
		running.Go(func() { feed.run(ctx) })
		running.Go(func() { feed.beat(ctx, f.draining) })
		f.feed, f.stop = feed, func() { cancel(); running.Wait() }
	}
	return f.feed, func() { f.leave(from) }, nil
}

func (f *feeds) leave(from netip.Prefix) {
	f.mu.Lock()
	f.streams--
	if f.byAddress[from]--; f.byAddress[from] == 0 {
		delete(f.byAddress, from)
	}
	stop, last := f.stop, f.streams == 0
	f.mu.Unlock()
	if last { // a stream that joins now opens a new feed
		stop()
	}
}

// count returns the number of open streams.
func (f *feeds) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams
}

// source returns the stock of all SKUs at first. Then it waits until the stock may have
// changed, and returns what may have changed since the last call. It returns false if
// the stock is unknown.
type source func(context.Context) ([]stock.Level, bool)

// follow returns a source that reads the mirror's view.
func follow(view View) source {
	var last int64
	var next <-chan struct{}
	return func(ctx context.Context) ([]stock.Level, bool) {
		if next != nil {
			select {
			case <-next:
			case <-ctx.Done():
			}
		}
		next = view.Next() // before Since, so that no change is missed
		changed, now, ok := view.Since(last)
		last = now
		return changed, ok
	}
}

// poll returns a source that reads all stock each time.
func poll(levels func(context.Context) ([]stock.Level, error)) source {
	var rest time.Duration
	return func(ctx context.Context) ([]stock.Level, bool) {
		_ = sleep.For(ctx, rest)
		ctx, cancel := context.WithTimeout(ctx, pollTimeout)
		defer cancel()
		began := time.Now()
		all, err := levels(ctx)
		rest = max(pollSpacing, pollRest*time.Since(began))
		return all, err == nil // /readyz reports the error
	}
}

// feed holds the current stock of every SKU, and wakes the streams that wait for a
// change. It has no queue: a slow stream skips to the newest stock.
type feed struct {
	source  source
	streams func() int // the number of open streams

	mu     sync.Mutex
	valid  bool // whether the topics are current
	topics map[string]*topic
	// recent has the topics with an event, the last changed first.
	recent  *list.List
	round   uint64    // counts the reads of the source
	waiting []*stream // for any change
	latest  events    // what all returned last
}

// topic is one SKU's stock.
type topic struct {
	event   *stockEvent // nil until the source returns the SKU
	round   uint64      // of the event
	place   *list.Element
	waiting []*stream // for a change of event or valid
}

// stockEvent is an event that all streams share. It does not change.
type stockEvent struct {
	stock.Level
	once sync.Once
	text []byte
}

// frame returns the event in the format of server-sent events. That of a SKU which is no
// longer listed has no id: if it is listed again, its seq may be the same.
func (e *stockEvent) frame() []byte {
	e.once.Do(func() {
		event, head := spec.StockEvent{SKU: e.SKU, Units: e.Units, Available: e.Available, Seq: int64(e.Seq)}, fmt.Sprintf("event: stock\nid: %d", e.Seq)
		if e.Unlisted {
			event.Available, event.Gone, head = 0, new(true), "event: gone"
		}
		data, _ := json.Marshal(event)
		e.text = fmt.Appendf(nil, "%s\ndata: %s\n\n", head, data)
	})
	return e.text
}

// run reads the source until ctx ends.
func (f *feed) run(ctx context.Context) {
	for ctx.Err() == nil {
		levels, ok := f.source(ctx)
		spacing := time.NewTimer(max(feedSpacing, time.Duration(f.streams())*feedShare))
		wake(ctx, f.take(levels, ok))
		select {
		case <-spacing.C:
		case <-ctx.Done():
		}
	}
}

// beat wakes all streams every beatSpacing, and when the replica drains.
func (f *feed) beat(ctx context.Context, draining <-chan struct{}) {
	beats := time.NewTicker(beatSpacing)
	defer beats.Stop()
	for drained := false; !drained; {
		select {
		case <-beats.C:
		case <-draining:
			drained = true
		case <-ctx.Done():
			return
		}
		wake(ctx, f.waiters())
	}
}

// wake wakes streams, a batch at a time.
func wake(ctx context.Context, streams []*stream) {
	for batch := range slices.Chunk(streams, wakeBatch) {
		for _, s := range batch {
			select {
			case s.woken <- struct{}{}:
			default: // it has been woken, and has not yet looked
			}
		}
		if len(streams) > wakeBatch {
			_ = sleep.For(ctx, wakeRest)
		}
	}
}

// take stores what the source returned, and returns the streams that wait for it.
func (f *feed) take(levels []stock.Level, ok bool) (waiting []*stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change := f.valid != ok
	f.valid = ok
	if change {
		waiting = f.takeAll()
	}
	f.round++
	for _, level := range levels {
		t := f.topics[level.SKU]
		if level.Unlisted && (t == nil || t.event == nil) {
			continue // no stream knows it
		}
		t = f.topic(level.SKU)
		if t.event != nil && t.event.Level == level {
			continue
		}
		change = true
		t.event, t.round = &stockEvent{Level: level}, f.round
		if t.place == nil {
			t.place = f.recent.PushFront(t)
		} else {
			f.recent.MoveToFront(t.place)
		}
		waiting = append(waiting, taken(&t.waiting)...)
	}
	if change {
		waiting = append(waiting, taken(&f.waiting)...)
	}
	return waiting
}

// waiters returns all streams that wait.
func (f *feed) waiters() []*stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.takeAll()
}

func (f *feed) takeAll() []*stream {
	waiting := taken(&f.waiting)
	for _, t := range f.topics {
		waiting = append(waiting, taken(&t.waiting)...)
	}
	return waiting
}

// taken empties a list of streams and returns what it had.
func taken(waiting *[]*stream) []*stream {
	streams := *waiting
	*waiting = nil
	return streams
}

func (f *feed) topic(sku string) *topic {
	t := f.topics[sku]
	if t == nil {
		t = &topic{}
		f.topics[sku] = t
	}
	return t
}

// one returns the stock of a SKU, or nil if it is unknown, and wakes s when it changes.
func (f *feed) one(sku string, s *stream) *stockEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topic(sku)
	t.waiting = append(t.waiting, s)
	if !f.valid {
		return nil
	}
	return t.event
}

// events are the events after a round, as text that all streams share.
type events struct {
	after, round uint64 // the first and the last round; a stream continues from round
	count        int
	text         []byte
}

// all returns the events after a round (0: of all SKUs), the oldest first, and wakes s at
// the next change.
func (f *feed) all(after uint64, s *stream) events {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, s)
	if !f.valid {
		return events{round: after}
	}
	// Nearly all streams ask for the same events. The text is not kept in the stream, as
	// it may be that of thousands of SKUs.
	if f.latest.after != after || f.latest.round != f.round {
		var texts [][]byte
		for e := f.recent.Front(); e != nil && e.Value.(*topic).round > after; e = e.Next() {
			if event := e.Value.(*topic).event; after > 0 || !event.Unlisted { // a new stream needs no events of what is gone
				texts = append(texts, event.frame())
			}
		}
		slices.Reverse(texts)
		f.latest = events{after, f.round, len(texts), bytes.Join(texts, nil)}
	}
	return f.latest
}
