package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/loadtest/attack"
)

// wire is an http.RoundTripper that sends the plan's requests in place of the
// ones that it is given, and keeps the answers.
//
// The harness has the same cores as what it measures. net/http's transport runs
// two goroutines for each connection, through which every request and every
// answer is handed on; that, its timers and its maps cost more than the handler
// of a no-op. Here the worker that asks writes its request with one call and
// reads the answer itself. It speaks as much HTTP/1.1 as the service answers
// with, and takes anything else for a broken connection.
type wire struct {
	ctx     context.Context // the run's
	plan    *attack.Plan
	tokens  *tokens
	targets []target
	// answers by request; each is written by the worker that has it.
	answers []attack.Answer

	reasons sync.Map // by themselves: a hundred thousand answers share few texts
}

// target is one replica, and the connections to it that are idle.
type target struct {
	addr string
	head string // of every request

	mu     sync.Mutex
	idle   []*conn
	all    []*conn
	broken bool // no request is waited for any more
}

// conn is one connection, used by one worker at a time.
type conn struct {
	net.Conn
	r   *bufio.Reader
	buf []byte
}

const (
	// answerTimeout is longer than a replica takes at most, 5 s, so that it is the
	// replica that says how a request ended.
	answerTimeout = 8 * time.Second
	// maxAnswer is more than any answer has, headers apart from the body.
	maxAnswer = 8 << 10
)

func newWire(ctx context.Context, plan *attack.Plan, minted *tokens, limit int) (*wire, error) {
	w := &wire{ctx: ctx, plan: plan, tokens: minted, answers: make([]attack.Answer, limit), targets: make([]target, len(plan.Targets))}
	for i, base := range plan.Targets {
		u, err := url.Parse(base)
		if err != nil {
			return nil, err
		}
		w.targets[i].addr = u.Host
		w.targets[i].head = "POST /v1/orders HTTP/1.1\r\nHost: " + u.Host + "\r\nUser-Agent: flashsale-loadtest\r\n" +
			"Content-Type: application/json\r\nAuthorization: Bearer "
	}
	return w, nil
}

// close ends all connections. It is for the time when no request is under way.
func (w *wire) close() {
	for i := range w.targets {
		w.targets[i].close()
	}
}

// breakOff ends the requests under way.
func (w *wire) breakOff() {
	for i := range w.targets {
		w.targets[i].breakOff()
	}
}

// nothing is the answer that vegeta gets: the real one is kept.
var nothing = http.Header{}

// RoundTrip sends request number X-Vegeta-Seq of the plan.
func (w *wire) RoundTrip(hit *http.Request) (*http.Response, error) {
	seq, err := strconv.Atoi(hit.Header.Get("X-Vegeta-Seq"))
	if err != nil || seq < 0 || seq >= len(w.answers) {
		return nil, fmt.Errorf("not a planned request: X-Vegeta-Seq %q", hit.Header.Get("X-Vegeta-Seq"))
	}
	a := &w.answers[seq]
	a.Seq = seq
	if err := w.exchange(seq, a); err != nil {
		a.Outcome, a.Status, a.Reason = attack.Ambiguous, 0, w.intern(trouble(err))
		return nil, err
	}
	return &http.Response{StatusCode: a.Status, ProtoMajor: 1, ProtoMinor: 1, Header: nothing, Body: http.NoBody, Request: hit}, nil
}

func (w *wire) exchange(seq int, a *attack.Answer) error {
	t := &w.targets[seq%len(w.targets)] // as attack.Plan has it
	c, err := t.get(w.ctx)
	if err != nil {
		return err
	}
	c.buf = w.request(c.buf[:0], t, seq)
	if _, err = c.Write(c.buf); err == nil {
		var keep bool
		if keep, err = w.read(c, a); err == nil && keep {
			t.put(c)
			return nil
		}
	}
	return errors.Join(err, c.Close())
}

func (w *wire) request(b []byte, t *target, seq int) []byte {
	o := w.plan.Order(seq)
	b = append(b, t.head...)
	b = append(b, w.tokens.of(seq)...)
	b = append(b, "\r\nIdempotency-Key: "...)
	b = append(b, o.Key...)
	b = append(b, "\r\nContent-Length: "...)
	const before, between, after = `{"sku":"`, `","quantity":`, `}`
	var digits [20]byte
	quantity := strconv.AppendInt(digits[:0], int64(o.Quantity), 10)
	b = strconv.AppendInt(b, int64(len(before)+len(o.SKU)+len(between)+len(quantity)+len(after)), 10)
	b = append(b, "\r\n\r\n"+before...)
	b = append(b, o.SKU...)
	b = append(b, between...)
	b = append(b, quantity...)
	return append(b, after...)
}

// read reads one answer, and whether the connection serves another.
func (w *wire) read(c *conn, a *attack.Answer) (keep bool, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	// "HTTP/1.1 201 Created"
	if len(line) < len("HTTP/1.1 201\r\n") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return false, errNotHTTP
	}
	if a.Status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return false, errNotHTTP
	}
	keep = true
	length := -1
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		switch name, value, _ := bytes.Cut(line, []byte(": ")); string(name) { // as Go's server writes them
		case "Content-Length":
			if length, err = strconv.Atoi(string(value)); err != nil {
				return false, errNotHTTP
			}
		case "Connection":
			keep = !bytes.EqualFold(value, []byte("close"))
		case "Idempotent-Replayed":
			a.Replayed = string(value) == "true"
		}
	}
	if length < 0 || length > maxAnswer {
		return false, errNotHTTP
	}
	body, err := c.r.Peek(length)
	if err != nil {
		return false, err
	}
	w.understand(a, body)
	_, err = c.r.Discard(length)
	return keep, err
}

// understand sorts an answer as package attack does.
func (w *wire) understand(a *attack.Answer, body []byte) {
	a.Outcome = attack.Refused
	switch a.Status {
	case http.StatusCreated:
		a.Outcome = attack.Accepted
		// One that names no order is accepted all the same, and found lost.
		a.OrderID, _ = uuid.ParseBytes(quoted(body, `"id":"`))
		return
	case http.StatusGatewayTimeout:
		a.Outcome = attack.Ambiguous
	}
	kind := quoted(body, `"type":"`)
	a.Reason = w.intern(string(kind[bytes.LastIndexByte(kind, '/')+1:]))
	if a.Status == http.StatusConflict && (a.Reason == "sold-out" || a.Reason == "insufficient-stock") {
		a.Outcome = attack.SoldOut
	}
}

// quoted is what stands between before and the next quote: ids and types have
// nothing to escape.
func quoted(body []byte, before string) []byte {
	i := bytes.Index(body, []byte(before))
	if i < 0 {
		return nil
	}
	body = body[i+len(before):]
	if end := bytes.IndexByte(body, '"'); end >= 0 {
		return body[:end]
	}
	return nil
}

var errNotHTTP = errors.New("an answer that is not understood")

func (w *wire) intern(text string) string {
	same, _ := w.reasons.LoadOrStore(text, text)
	return same.(string)
}

// trouble is what became of a connection, in few words.
func trouble(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	words := err.Error()
	if i := strings.LastIndex(words, ": "); i >= 0 {
		words = words[i+2:]
	}
	return words
}

// get takes the connection that was used last, so that few are used when few are
// needed, or makes one.
func (t *target) get(ctx context.Context) (*conn, error) {
	t.mu.Lock()
	if n := len(t.idle); n > 0 {
		c := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return c, nil
	}
	t.mu.Unlock()
	dialer := net.Dialer{Timeout: answerTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, r: bufio.NewReaderSize(raw, maxAnswer)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, c)
	if t.broken { // while it was made
		_ = c.SetDeadline(time.Now())
	}
	return c, nil
}

func (t *target) put(c *conn) {
	t.mu.Lock()
	t.idle = append(t.idle, c)
	t.mu.Unlock()
}

func (t *target) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.all {
		_ = c.Close() // some are closed already
	}
	t.all, t.idle = nil, nil
}

// breakOff lets every read and write return at once, from now on.
func (t *target) breakOff() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = true
	for _, c := range t.all {
		_ = c.SetDeadline(time.Now()) // some are closed already
	}
}
