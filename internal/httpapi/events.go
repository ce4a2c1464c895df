package httpapi

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

const (
	// defaultStreams is the default of MaxStreams: a stream uses about 10 KiB.
	defaultStreams = 5000
	// By default one address may open 1/addressShare of all streams, at least
	// addressMin.
	addressShare = 10
	addressMin   = 10
	// addressRetryAfter is the Retry-After, in seconds, for an address with too
	// many streams. The next heartbeat detects closed ones.
	addressRetryAfter = "30"
	// heartbeat is about the longest time without a write: an idle stream gets a comment.
	// Proxies close idle connections after 30 seconds or more.
	heartbeat = 5 * time.Second
	// sendTimeout bounds a write to a slow client, which then loses its stream. The
	// deadline is set again after sendRenewal, as setting it costs a tenth of an event.
	// sendTimeout must exceed sendRenewal plus a heartbeat: HTTP/2 ends a stream at its
	// deadline even without a write.
	sendTimeout = 10 * time.Second
	sendRenewal = 2 * time.Second
	// sendSize is the size of a write of many events. Each has sendTimeout.
	sendSize = 32 << 10
	// Clients reconnect after reconnectMin to twice as much, so that they do not
	// all move to another replica at once.
	reconnectMin = time.Second
	// catchUp is how long this replica may lag behind a client's Last-Event-ID.
	// After that, a restored backup must have reset the seq.
	catchUp = 10 * time.Second
)

func (a *api) WatchSKU(c *gin.Context, sku spec.SKUInPath) {
	if _, err := a.findSKU(c.Request.Context(), sku); err != nil {
		a.fail(c, err)
		return
	}
	// Skip events that the client already has.
	seen, err := strconv.ParseInt(c.GetHeader("Last-Event-ID"), 10, 64)
	if err != nil {
		seen = -1 // less than every seq
	}
	until := time.Now().Add(catchUp)
	var last *stockEvent
	a.stream(c, func(s *stream) {
		event := s.feed.one(sku, s)
		if event != nil && event != last && (int64(event.Seq) > seen || int64(event.Seq) < seen && time.Now().After(until)) {
			s.send(1, event.frame())
			last, seen = event, -1
		}
	})
}

// WatchSKUs streams the stock of all SKUs. It ignores Last-Event-ID, as ids count
// each SKU's events separately.
func (a *api) WatchSKUs(c *gin.Context) {
	var round uint64
	a.stream(c, func(s *stream) {
		events := s.feed.all(round, s)
		round = events.round
		s.send(events.count, events.text)
	})
}

// stream answers with an event stream. It calls next at first, and again whenever the feed
// wakes the stream, which next must ask for. It may return before the stream ends: next
// must not use c.
func (a *api) stream(c *gin.Context, next func(*stream)) {
	if isClosed(a.feeds.draining) {
		a.fail(c, fmt.Errorf("%w: this replica is shutting down", order.ErrUnavailable))
		return
	}
	feed, leave, err := a.feeds.join(a.network(c))
	if err != nil {
		c.Header("Retry-After", addressRetryAfter) // fail replaces it if the status is 503
		a.fail(c, err)
		return
	}
	header := c.Writer.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // or nginx would buffer events
	s := &stream{feeds: a.feeds, feed: feed, woken: make(chan struct{}, 1)}
	run := func() {
		defer leave()
		s.write(fmt.Appendf(nil, "retry: %d\n\n", (reconnectMin + rand.N(reconnectMin)).Milliseconds()))
		for next(s); s.wait(); next(s) {
		}
		s.end()
	}
	if c.Request.ProtoMajor > 1 { // HTTP/2 shares its connection
		control := http.NewResponseController(c.Writer)
		s.to, s.gone, s.end = flushed{c.Writer, control}, c.Request.Context().Done(), func() {}
		run()
		return
	}
	if err := s.takeOver(c.Writer); err != nil {
		leave()
		a.fail(c, err)
		return
	}
	go run()
}

// takeOver sends the headers, and takes the connection from net/http: its buffers and
// goroutines, and the stack of the handler, use four times the memory of a stream.
func (s *stream) takeOver(w gin.ResponseWriter) error {
	w.Header().Set("Transfer-Encoding", "identity") // net/http then sends no chunks: the end of the connection ends the stream
	w.Flush()
	conn, _, err := w.Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection of an event stream: %w", err)
	}
	gone := make(chan struct{})
	s.to, s.gone, s.end = conn, gone, func() { _ = conn.Close() }
	go func() {
		defer close(gone)
		// A client that sends anything else does not speak HTTP/1.1, and loses its stream.
		_, _ = conn.Read(make([]byte, 1))
	}()
	return nil
}

// stream is one open event stream.
type stream struct {
	*feeds
	feed *feed
	to   interface {
		io.Writer
		SetWriteDeadline(time.Time) error
	}
	end     func()          // closes to; it may be called more than once
	gone    <-chan struct{} // closed when the client disconnects or a write fails
	woken   chan struct{}   // receives when the feed wakes this stream; its buffer is 1
	wrote   time.Time
	renewal time.Time // when the deadline of writes is set again
}

// flushed is an answer by HTTP/2.
type flushed struct {
	http.ResponseWriter
	*http.ResponseController
}

// Write sends text at once.
func (f flushed) Write(text []byte) (int, error) {
	n, err := f.ResponseWriter.Write(text)
	return n, errors.Join(err, f.Flush())
}

// send sends the text of a number of events.
func (s *stream) send(count int, text []byte) {
	for part := range slices.Chunk(text, sendSize) {
		s.write(part)
	}
	s.sent.Add(float64(count))
}

// write sends text, or ends the stream.
func (s *stream) write(text []byte) {
	if s.wrote = time.Now(); s.wrote.After(s.renewal) {
		_ = s.to.SetWriteDeadline(s.wrote.Add(sendTimeout))
		s.renewal = s.wrote.Add(sendRenewal)
	}
	if _, err := s.to.Write(text); err != nil {
		s.end() // over HTTP/2, a failed write cancels the request
	}
}

// wait sends a heartbeat if one is due, and waits for the feed. It returns false when the
// stream must end. It waits for nothing that streams share: they would take turns at it.
func (s *stream) wait() bool {
	if time.Since(s.wrote) >= beatSpacing {
		s.write([]byte(": still here\n\n"))
	}
	if isClosed(s.draining) { // the feed wakes all streams after this
		return false
	}
	select {
	case <-s.woken:
	case <-s.gone:
	}
	return !isClosed(s.gone)
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
