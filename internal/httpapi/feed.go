package httpapi

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/mirror"
	"flashsale/internal/order"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

const (
	// feedSpacing is the minimum time between two reads of the stock.
	feedSpacing = 50 * time.Millisecond
	// feedShare is added for each stream. An event costs about 10 us of CPU (-bench
	// Events), so a SKU's events use at most a fifth of a core.
	feedShare = 50 * time.Microsecond
	// Without a view, the feed polls every pollSpacing, or, if MySQL is slow, after
	// pollRest times the duration of the last poll.
	pollSpacing = 250 * time.Millisecond
	pollRest    = 10
	pollTimeout = 2 * time.Second
)

// View is a copy of all stock in memory. Next returns a channel that is closed when
// the view changes, or becomes valid or invalid.
type View interface {
	Next() <-chan struct{}
	Since(revision int64) (changed []mirror.Entry, now int64, ok bool)
}

// feeds manages the one feed that all streams of this replica share. The feed runs
// while a stream is open.
type feeds struct {
	open               func() source // opens the source of a new feed
	max, maxPerAddress int           // open streams

	mu        sync.Mutex
	streams   int
	byAddress map[netip.Prefix]int // open streams, without zeros
	feed      *feed
	stop      func() // ends the feed and waits for it
}

var errAddressStreams = errors.New("too many streams of this address")

// join registers a stream of an address, until leave is called. It returns
// order.ErrBusy or errAddressStreams if there are too many.
func (f *feeds) join(from netip.Prefix) (*feed, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams >= f.max {
		return nil, nil, fmt.Errorf("%w: %d streams are open", order.ErrBusy, f.streams)
	}
	if f.byAddress[from] >= f.maxPerAddress {
		return nil, nil, errAddressStreams
	}
	f.byAddress[from]++
	if f.streams++; f.streams == 1 {
		ctx, cancel := context.WithCancel(context.Background()) // the feed outlives this stream
		feed := newFeed(f.open(), f.count)
		var running sync.WaitGroup
		running.Go(func() { feed.run(ctx) })
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

// source is what a feed reads the stock from.
type source interface {
	// changes returns what may have changed since the last call; at first, the
	// stock of all SKUs. It returns false if the stock is unknown.
	changes(ctx context.Context) ([]stock.Level, bool)
	// wait returns when the stock may have changed, or at ctx's end.
	wait(ctx context.Context)
}

// viewed is a source that follows the mirror's view.
type viewed struct {
	view     View
	revision int64
	next     <-chan struct{}
}

func (v *viewed) changes(context.Context) ([]stock.Level, bool) {
	v.next = v.view.Next() // before Since, so that no change is missed
	entries, now, ok := v.view.Since(v.revision)
	v.revision = now
	levels := make([]stock.Level, len(entries))
	for i := range entries {
		e := &entries[i]
		levels[i] = stock.Level{SKU: e.SKU, Units: e.Units, Available: e.Available, Seq: e.Seq}
	}
	return levels, ok
}

func (v *viewed) wait(ctx context.Context) {
	select {
	case <-v.next:
	case <-ctx.Done():
	}
}

// polled is a source that reads all stock each time.
type polled struct {
	levels func(context.Context) ([]stock.Level, error)
	rest   time.Duration
}

func (p *polled) changes(ctx context.Context) ([]stock.Level, bool) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	began := time.Now()
	levels, err := p.levels(ctx)
	p.rest = max(pollSpacing, pollRest*time.Since(began))
	return levels, err == nil // /readyz reports the error
}

func (p *polled) wait(ctx context.Context) { _ = sleep.For(ctx, p.rest) }

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
	round   uint64        // counts the reads of the source
	changed chan struct{} // closed when any topic or valid changes
}

// topic is one SKU's stock.
type topic struct {
	event   *stockEvent // nil until the source returns the SKU
	round   uint64      // of the event
	place   *list.Element
	changed chan struct{} // closed when event or valid changes; nil without waiters
}

// stockEvent is an event that all streams share. It does not change.
type stockEvent struct {
	stock.Level
	once sync.Once
	text []byte
}

// frame returns the event in the format of server-sent events.
func (e *stockEvent) frame() []byte {
	e.once.Do(func() {
		data, _ := json.Marshal(spec.StockEvent{SKU: e.SKU, Units: e.Units, Available: e.Available, Seq: int64(e.Seq)})
		e.text = fmt.Appendf(nil, "event: stock\nid: %d\ndata: %s\n\n", e.Seq, data)
	})
	return e.text
}

func newFeed(s source, streams func() int) *feed {
	return &feed{source: s, streams: streams, topics: map[string]*topic{}, recent: list.New(), changed: make(chan struct{})}
}

// run reads the source until ctx ends.
func (f *feed) run(ctx context.Context) {
	for ctx.Err() == nil {
		levels, ok := f.source.changes(ctx)
		f.take(levels, ok)
		_ = sleep.For(ctx, max(feedSpacing, time.Duration(f.streams())*feedShare))
		f.source.wait(ctx)
	}
}

// take stores what the source returned, and wakes the streams that wait for it.
func (f *feed) take(levels []stock.Level, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change := f.valid != ok
	f.valid = ok
	if change {
		for _, t := range f.topics {
			t.wake()
		}
	}
	f.round++
	for _, level := range levels {
		t := f.topic(level.SKU)
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
		t.wake()
	}
	if change {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

func (f *feed) topic(sku string) *topic {
	t := f.topics[sku]
	if t == nil {
		t = &topic{}
		f.topics[sku] = t
	}
	return t
}

func (t *topic) wake() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// one returns the stock of a SKU, nil if it is unknown, and a channel that is
// closed when it changes.
func (f *feed) one(sku string) (*stockEvent, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topic(sku)
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	if !f.valid {
		return nil, t.changed
	}
	return t.event, t.changed
}

// all returns the events since a round (0: of all SKUs), the oldest first; the round
// to continue from; and a channel that is closed at the next change.
func (f *feed) all(after uint64) (events []*stockEvent, round uint64, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.valid {
		return nil, after, f.changed
	}
	for e := f.recent.Front(); e != nil; e = e.Next() {
		t := e.Value.(*topic)
		if t.round <= after {
			break
		}
		events = append(events, t.event)
	}
	slices.Reverse(events)
	return events, f.round, f.changed
}
