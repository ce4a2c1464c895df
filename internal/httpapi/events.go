package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

const (
	// defaultStreams is how many streams a replica serves: each takes some 40 KiB.
	defaultStreams = 5000
	// addressShare of all streams may be one address's, unless the configuration
	// says otherwise: an office behind one address has room, and ten of them leave
	// none. Small numbers of streams are not shared out below addressLeast.
	addressShare = 10
	addressLeast = 10
	// ownStreamsWait, in seconds, is what an address with too many streams is asked
	// to wait. A stream whose client has closed it is found by the next heartbeat;
	// one whose client has vanished, when TCP gives up.
	ownStreamsWait = "30"
	// heartbeat is how often a stream says that it is there. Proxies give a
	// silent connection up after half a minute at the earliest.
	heartbeat = 5 * time.Second
	// sendTimeout is how long a reader may take to read what fits no buffer any
	// more. Then it is dropped.
	sendTimeout = 10 * time.Second
	// sendAtOnce is how much of a long list is handed to the network at a time.
	sendAtOnce = 32 << 10
	// reconnectMin, and up to as much again, is how long clients wait before they
	// come back to another replica: not all of them at once.
	reconnectMin = time.Second
	// catchUp is how long this replica may be behind what Last-Event-ID says that
	// the client has seen on another one. After that it is MySQL that went back,
	// to a backup, and what there is now is sent.
	catchUp = 10 * time.Second
)

// nothing is below every seq: that of a client which has seen no event.
const nothing = -1

// events serves the streams of stock.
type events struct {
	feeds    feeds
	draining <-chan struct{}
	sent     prometheus.Counter
}

func newEvents(cfg *Config) *events {
	e := &events{draining: cfg.Draining}
	e.feeds.max = cmp.Or(cfg.MaxStreams, defaultStreams)
	e.feeds.maxOfOne = cmp.Or(cfg.MaxStreamsAddress, max(e.feeds.max/addressShare, addressLeast))
	e.feeds.of = map[netip.Prefix]int{}
	levels := cfg.Levels
	if levels == nil {
		levels = cfg.Stock.Levels
	}
	e.feeds.open = func() source {
		if cfg.View != nil {
			return &viewed{view: cfg.View}
		}
		return &polled{levels: levels}
	}
	factory := promauto.With(cfg.Registry)
	e.sent = factory.NewCounter(prometheus.CounterOpts{Namespace: "flashsale", Name: "http_events_sent_total",
		Help: "Events sent, over all event streams."})
	return e
}

// WatchSKU streams what is left of one SKU.
func (a *api) WatchSKU(c *gin.Context, sku spec.SKUInPath) {
	if err := a.exists(c.Request.Context(), sku); err != nil {
		a.fail(c, err)
		return
	}
	s, err := a.openStream(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	defer s.leave()
	// What the client has seen is no news, and what is older less so.
	seen, err := strconv.ParseInt(c.GetHeader("Last-Event-ID"), 10, 64)
	if err != nil {
		seen = nothing
	}
	until := time.Now().Add(catchUp)
	var last *stockEvent
	for {
		event, changed := s.feed.one(sku)
		if event != nil && event != last && (int64(event.Seq) > seen || int64(event.Seq) < seen && time.Now().After(until)) {
			s.send(event)
			last, seen = event, nothing
		}
		if !s.wait(changed) {
			return
		}
	}
}

// exists returns stock.ErrUnknownSKU where there is no such SKU.
func (a *api) exists(ctx context.Context, sku string) error {
	if a.skuName(sku) != "" {
		return stock.ErrUnknownSKU
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout)
	defer cancel()
	if _, err := a.cfg.Catalog.Get(ctx, sku); err != nil {
		return unavailable(err)
	}
	return nil
}

// WatchSKUs streams what is left of every SKU, at first of all. Ids are each
// SKU's own: Last-Event-ID says nothing here.
func (a *api) WatchSKUs(c *gin.Context) {
	s, err := a.openStream(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	defer s.leave()
	var round uint64
	for {
		events, now, changed := s.feed.all(round)
		round = now
		s.send(events...)
		if !s.wait(changed) {
			return
		}
	}
}

// stream is one answer that goes on.
type stream struct {
	*events
	feed      *feed
	leave     func()
	writer    http.ResponseWriter
	control   *http.ResponseController
	gone      <-chan struct{} // closed when the client is, or a write has failed
	heartbeat *time.Timer
	buffer    []byte
}

// openStream begins an answer. Whoever gets a stream must leave it.
func (a *api) openStream(c *gin.Context) (*stream, error) {
	select {
	case <-a.events.draining:
		return nil, fmt.Errorf("%w: this replica is shutting down", order.ErrUnavailable)
	default:
	}
	feed, leave, err := a.events.feeds.join(network(clientAddress(c)))
	if errors.Is(err, errOwnStreams) {
		c.Header("Retry-After", ownStreamsWait)
		return nil, kindTooMany.problem(fmt.Sprintf("The limit is %d streams at the same time by address. End one, or wait as long as Retry-After says.",
			a.events.feeds.maxOfOne))
	}
	if err != nil {
		busy := problemOf(err)
		busy.Detail = "So many streams are open here that no other is served. Try again later."
		return nil, busy
	}
	header := c.Writer.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would gather events to a few KiB
	s := &stream{events: a.events, feed: feed, leave: leave, writer: c.Writer, control: http.NewResponseController(c.Writer),
		gone: c.Request.Context().Done(), heartbeat: time.NewTimer(heartbeat)}
	// The server's time-outs are for requests. A read that times out would end
	// this one, and a connection that knows no deadlines has none to lift.
	_ = s.control.SetReadDeadline(time.Time{})
	s.write(fmt.Appendf(nil, "retry: %d\n\n", (reconnectMin + rand.N(reconnectMin)).Milliseconds()))
	return s, nil
}

// send sends events, together where they are many.
func (s *stream) send(events ...*stockEvent) {
	if len(events) == 1 {
		s.write(events[0].frame())
	} else {
		for i, event := range events {
			s.buffer = append(s.buffer, event.frame()...)
			if len(s.buffer) >= sendAtOnce || i == len(events)-1 {
				s.write(s.buffer)
				s.buffer = s.buffer[:0]
			}
		}
	}
	s.sent.Add(float64(len(events)))
}

// write hands text to the network, or ends the request.
func (s *stream) write(text []byte) {
	_ = s.control.SetWriteDeadline(time.Now().Add(sendTimeout))
	// An error closes gone: the server ends a request that it cannot answer.
	_, _ = s.writer.Write(text)
	_ = s.control.Flush()
	s.heartbeat.Reset(heartbeat)
}

// wait waits for changed, or for the next heartbeat, which it sends. It reports
// false when the stream is to end.
func (s *stream) wait(changed <-chan struct{}) bool {
	select {
	case <-s.draining:
		return false
	case <-s.gone:
		return false
	default: // an end comes before news
	}
	select {
	case <-changed:
	case <-s.heartbeat.C:
		s.write([]byte(": still here\n\n"))
	case <-s.draining:
		return false
	case <-s.gone:
		return false
	}
	return true
}
