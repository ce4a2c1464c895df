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
	// feedSpacing is the least time from one look at the stock to the next: no
	// SKU has more than twenty events a second, however fast it sells.
	feedSpacing = 50 * time.Millisecond
	// feedShare, for each stream, stretches it: an event costs some 10 us of CPU,
	// and orders come first. A replica sends no more than 20,000 a second of a
	// SKU that everybody watches, a fifth of a core. (-bench Events)
	feedShare = 50 * time.Microsecond
	// pollSpacing and pollRest bound the looks where there is no view to follow:
	// four a second, or fewer where MySQL takes long to answer.
	pollSpacing = 250 * time.Millisecond
	pollRest    = 10
	pollTimeout = 2 * time.Second
)

// View is a copy of all stock in memory. Next is closed when it changes, and when
// it begins or ends to be known.
type View interface {
	Next() <-chan struct{}
	Since(revision int64) (changed []mirror.Entry, now int64, ok bool)
}

// feeds gives every stream of this replica the one feed that they share. It runs
// while there are streams: nobody else needs it.
type feeds struct {
	open func() source // of a new feed
	max  int           // streams at the same time
	// maxOfOne are those of one address, which is to leave some to others.
	maxOfOne int

	mu      sync.Mutex
	streams int
	of      map[netip.Prefix]int // streams by address, of those that have some
	feed    *feed
	stop    func() // ends the feed, and waits until it has
}

// errOwnStreams says that the caller's address has as many streams as it may.
var errOwnStreams = errors.New("too many streams of this address")

// join counts a stream of an address in, until it leaves. It returns
// order.ErrBusy when there are too many, and errOwnStreams when that address has.
func (f *feeds) join(from netip.Prefix) (*feed, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams >= f.max {
		return nil, nil, fmt.Errorf("%w: %d streams are open", order.ErrBusy, f.streams)
	}
	if f.of[from] >= f.maxOfOne {
		return nil, nil, errOwnStreams
	}
	f.of[from]++
	if f.streams++; f.streams == 1 {
		ctx, cancel := context.WithCancel(context.Background()) // that of all its streams
		ended := make(chan struct{})
		f.feed = newFeed(f.open(), f.count)
		go func() {
			defer close(ended)
			f.feed.run(ctx)
		}()
		f.stop = func() { cancel(); <-ended }
	}
	return f.feed, func() { f.leave(from) }, nil
}

func (f *feeds) leave(from netip.Prefix) {
	f.mu.Lock()
	f.streams--
	if f.of[from]--; f.of[from] == 0 {
		delete(f.of, from)
	}
	stop := f.stop
	last := f.streams == 0
	f.mu.Unlock()
	if last { // one that joins meanwhile has a feed of its own
		stop()
	}
}

// count is how many streams are open.
func (f *feeds) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams
}

// source is where a feed looks.
type source interface {
	// changes returns what may have changed since the last call, and at first
	// all there is. It reports false when that cannot be told.
	changes(ctx context.Context) ([]stock.Level, bool)
	// wait returns when there may be something new, or at ctx's end.
	wait(ctx context.Context)
}

// viewed is a source that follows the mirror.
type viewed struct {
	view     View
	revision int64
	next     <-chan struct{}
}

func (v *viewed) changes(context.Context) ([]stock.Level, bool) {
	v.next = v.view.Next() // before looking, so that nothing falls between
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

// polled is a source that asks for everything each time.
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
	return levels, err == nil // what is wrong with the server, readiness says
}

func (p *polled) wait(ctx context.Context) { _ = sleep.For(ctx, p.rest) }

// feed knows what is left of every SKU, and wakes the streams that wait for a
// change. It keeps what is, not what has happened: a stream that is slow finds
// the newest when it comes to look, and holds nothing up and nothing in memory.
type feed struct {
	source  source
	streams func() int // that are open

	mu     sync.Mutex
	known  bool // what the topics say is so
	topics map[string]*topic
	// recent are the topics that have an event, the last changed first.
	recent  *list.List
	round   uint64        // of looking, in which something had changed
	changed chan struct{} // closed when any topic changes, or known
}

// topic is one SKU.
type topic struct {
	event   *stockEvent // nil: the source has not shown it yet
	round   uint64      // in which the event came
	place   *list.Element
	changed chan struct{} // closed when the event changes, or known; nil while nobody waits
}

// stockEvent is an event that many streams send. It does not change.
type stockEvent struct {
	stock.Level
	once sync.Once
	text []byte
}

// frame is the event as it is sent.
func (e *stockEvent) frame() []byte {
	e.once.Do(func() {
		data, err := json.Marshal(spec.StockEvent{SKU: e.SKU, Units: e.Units, Available: e.Available, Seq: int64(e.Seq)})
		if err != nil { // a struct of text and numbers: it cannot be
			return
		}
		e.text = fmt.Appendf(nil, "event: stock\nid: %d\ndata: %s\n\n", e.Seq, data)
	})
	return e.text
}

func newFeed(s source, streams func() int) *feed {
	return &feed{source: s, streams: streams, topics: map[string]*topic{}, recent: list.New(), changed: make(chan struct{})}
}

// run looks until ctx ends.
func (f *feed) run(ctx context.Context) {
	for ctx.Err() == nil {
		levels, ok := f.source.changes(ctx)
		f.take(levels, ok)
		_ = sleep.For(ctx, max(feedSpacing, time.Duration(f.streams())*feedShare))
		f.source.wait(ctx)
	}
}

// take takes in what the source has shown, and wakes those whom it concerns.
func (f *feed) take(levels []stock.Level, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	news := f.known != ok
	f.known = ok
	if news {
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
		news = true
		t.event, t.round = &stockEvent{Level: level}, f.round
		if t.place == nil {
			t.place = f.recent.PushFront(t)
		} else {
			f.recent.MoveToFront(t.place)
		}
		t.wake()
	}
	if news {
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

// one is what is left of a SKU, nil when that is not known, and a channel that
// is closed when it changes.
func (f *feed) one(sku string) (*stockEvent, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topic(sku)
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	if !f.known {
		return nil, t.changed
	}
	return t.event, t.changed
}

// all is what has changed after a round, 0 for everything, the oldest first; the
// round to go on from; and a channel that is closed at the next change.
func (f *feed) all(after uint64) (events []*stockEvent, round uint64, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
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
