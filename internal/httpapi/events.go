package httpapi

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

const (
	// defaultStreams is the default of MaxStreams: a stream uses about 40 KiB.
	defaultStreams = 5000
	// By default one address may open 1/addressShare of all streams, at least
	// addressMin.
	addressShare = 10
	addressMin   = 10
	// addressRetryAfter is the Retry-After, in seconds, for an address with too
	// many streams. The next heartbeat detects closed ones.
	addressRetryAfter = "30"
	// heartbeat is the interval of comments on an idle stream. Proxies close idle
	// connections after 30 seconds or more.
	heartbeat = 5 * time.Second
	// sendTimeout bounds a write to a slow client, which then loses its stream.
	sendTimeout = 10 * time.Second
	// sendBuffer is the size of a write of many events.
	sendBuffer = 32 << 10
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
	a.stream(c, func(s *stream) <-chan struct{} {
		event, changed := s.feed.one(sku)
		if event != nil && event != last && (int64(event.Seq) > seen || int64(event.Seq) < seen && time.Now().After(until)) {
			s.send(event)
			last, seen = event, -1
		}
		return changed
	})
}

// WatchSKUs streams the stock of all SKUs. It ignores Last-Event-ID, as ids count
// each SKU's events separately.
func (a *api) WatchSKUs(c *gin.Context) {
	var round uint64
	a.stream(c, func(s *stream) (changed <-chan struct{}) {
		var events []*stockEvent
		events, round, changed = s.feed.all(round)
		s.send(events...)
		return changed
	})
}

// stream answers with an event stream. It calls next at first, and again whenever the
// channel that next returned is closed.
func (a *api) stream(c *gin.Context, next func(*stream) (changed <-chan struct{})) {
	s, err := a.openStream(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	defer s.leave()
	for s.wait(next(s)) {
	}
}

// stream is one open event stream.
type stream struct {
	*feeds
	feed      *feed
	leave     func()
	writer    http.ResponseWriter
	control   *http.ResponseController
	gone      <-chan struct{} // closed when the client disconnects or a write fails
	heartbeat *time.Timer
	buffer    []byte
}

// openStream starts the answer. The caller must call leave.
func (a *api) openStream(c *gin.Context) (*stream, error) {
	if isClosed(a.feeds.draining) {
		return nil, fmt.Errorf("%w: this replica is shutting down", order.ErrUnavailable)
	}
	feed, leave, err := a.feeds.join(network(clientAddress(c)))
	if err != nil {
		c.Header("Retry-After", addressRetryAfter) // fail replaces it if the status is 503
		return nil, err
	}
	header := c.Writer.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // or nginx would buffer events
	s := &stream{feeds: a.feeds, feed: feed, leave: leave, writer: c.Writer, control: http.NewResponseController(c.Writer),
		gone: c.Request.Context().Done(), heartbeat: time.NewTimer(heartbeat)}
	// Without this, the server's read timeout would end the stream. It fails only on
	// connections without deadlines.
	_ = s.control.SetReadDeadline(time.Time{})
	s.write(fmt.Appendf(nil, "retry: %d\n\n", (reconnectMin + rand.N(reconnectMin)).Milliseconds()))
	return s, nil
}

// send sends events, several in one write.
func (s *stream) send(events ...*stockEvent) {
	for i, event := range events {
		s.buffer = append(s.buffer, event.frame()...)
		if len(s.buffer) >= sendBuffer || i == len(events)-1 {
			s.write(s.buffer)
			s.buffer = s.buffer[:0]
		}
	}
	s.sent.Add(float64(len(events)))
}

// write sends text, or ends the request.
func (s *stream) write(text []byte) {
	_ = s.control.SetWriteDeadline(time.Now().Add(sendTimeout))
	// A failed write closes gone: net/http then cancels the request.
	_, _ = s.writer.Write(text)
	_ = s.control.Flush()
	s.heartbeat.Reset(heartbeat)
}

// wait waits for changed, or sends the next heartbeat. It returns false when the
// stream must end.
func (s *stream) wait(changed <-chan struct{}) bool {
	select {
	case <-changed:
	case <-s.heartbeat.C:
		s.write([]byte(": still here\n\n"))
	case <-s.draining:
	case <-s.gone:
	}
	return !isClosed(s.draining) && !isClosed(s.gone)
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
