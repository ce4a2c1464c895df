package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/loadtest/attack"
)

// wire is an http.RoundTripper that sends the plan's requests instead of those that
// it is given, and stores the answers.
//
// The load generator shares the cores with the replicas. net/http's transport needs
// two goroutines for each connection, and costs more than the handler of noop. With
// wire, a worker writes its request with one call and reads the answer itself. It
// implements only the part of HTTP/1.1 that the service uses, and treats anything
// else as a broken connection.
type wire struct {
	ctx     context.Context // the run's
	plan    *attack.Plan
	tokens  *attack.Tokens
	targets []target
	// answers by request. Each is written by one worker.
	answers []attack.Answer
}

// target is a replica with its connections.
type target struct {
	addr string
	head string // the beginning of every request

	mu     sync.Mutex
	idle   []*conn
	all    []*conn
	broken bool // all requests end at once
}

type conn struct {
	net.Conn
	r   *bufio.Reader
	buf []byte
}

// maxAnswer is larger than the headers and the body of any answer.
const maxAnswer = 8 << 10

func newWire(ctx context.Context, plan *attack.Plan, minted *attack.Tokens, limit int) (*wire, error) {
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

// close closes all connections. Call it when no request is in progress.
func (w *wire) close() {
	w.each(func(t *target) {
		for _, c := range t.all {
			_ = c.Close() // some are closed already
		}
		t.all, t.idle = nil, nil
	})
}

// breakOff makes every read and write return at once from now on.
func (w *wire) breakOff() {
	w.each(func(t *target) {
		t.broken = true
		for _, c := range t.all {
			_ = c.SetDeadline(time.Now()) // some are closed already
		}
	})
}

func (w *wire) each(f func(*target)) {
	for i := range w.targets {
		t := &w.targets[i]
		t.mu.Lock()
		f(t)
		t.mu.Unlock()
	}
}

// nothing is the header that vegeta gets. The real answer is stored.
var nothing = http.Header{}

// RoundTrip sends request number X-Vegeta-Seq of the plan.
func (w *wire) RoundTrip(hit *http.Request) (*http.Response, error) {
	seq, err := strconv.Atoi(hit.Header.Get("X-Vegeta-Seq"))
	if err != nil || seq < 0 || seq >= len(w.answers) {
		return nil, fmt.Errorf("X-Vegeta-Seq %q is not a planned request", hit.Header.Get("X-Vegeta-Seq"))
	}
	a := &w.answers[seq]
	a.Seq = seq
	if err := w.exchange(seq, a); err != nil {
		a.Outcome, a.Status, a.Reason = attack.Ambiguous, 0, attack.ReasonOf(err.Error())
		return nil, err
	}
	return &http.Response{StatusCode: a.Status, ProtoMajor: 1, ProtoMinor: 1, Header: nothing, Body: http.NoBody, Request: hit}, nil
}

func (w *wire) exchange(seq int, a *attack.Answer) error {
	t := &w.targets[seq%len(w.targets)] // as attack.Plan assigns them
	c, err := t.get(w.ctx)
	if err != nil {
		return err
	}
	c.buf = w.request(c.buf[:0], t, seq)
	if _, err = c.Write(c.buf); err == nil {
		var keep bool
		if keep, err = c.read(a); err == nil && keep {
			t.put(c)
			return nil
		}
	}
	return errors.Join(err, c.Close())
}

func (w *wire) request(b []byte, t *target, seq int) []byte {
	o := w.plan.Order(seq)
	b = append(b, t.head...)
	b = append(b, w.tokens.Of(seq)...)
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

// read reads one answer. keep reports whether the connection can be reused.
func (c *conn) read(a *attack.Answer) (keep bool, err error) {
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
		switch name, value, _ := bytes.Cut(line, []byte(": ")); string(name) { // in the spelling of Go's server
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
	classify(a, body)
	_, err = c.r.Discard(length)
	return keep, err
}

// classify sets the outcome of an answer. A 201 without an id still counts as accepted:
// the audit reports that its row is missing.
func classify(a *attack.Answer, body []byte) {
	if a.Status == http.StatusCreated {
		a.OrderID, _ = uuid.ParseBytes(quoted(body, `"id":"`))
	} else {
		kind := quoted(body, `"type":"`)
		a.Reason = string(kind[bytes.LastIndexByte(kind, '/')+1:])
	}
	a.Outcome = attack.OutcomeOf(a.Status, a.Reason)
}

// quoted is the text between before and the next quote.
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

var errNotHTTP = errors.New("the answer is not HTTP/1.1 with a Content-Length")

// get returns the idle connection that was used last, or opens one.
func (t *target) get(ctx context.Context) (*conn, error) {
	t.mu.Lock()
	if n := len(t.idle); n > 0 {
		c := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return c, nil
	}
	t.mu.Unlock()
	dialer := net.Dialer{Timeout: attack.RequestTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, r: bufio.NewReaderSize(raw, maxAnswer)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, c)
	if t.broken { // in the meantime
		_ = c.SetDeadline(time.Now())
	}
	return c, nil
}

func (t *target) put(c *conn) {
	t.mu.Lock()
	t.idle = append(t.idle, c)
	t.mu.Unlock()
}
