package attack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/sync/errgroup"
)

// tokenLife is how long a customer's token is valid: longer than the longest attack.
const tokenLife = 24 * time.Hour

// Token signs a customer's token. The secret may be short: the library rejects that, but
// HMAC itself pads it with zeros.
func Token(customer, secret string) string {
	key := append([]byte(secret), make([]byte, max(0, sha256.Size-len(secret)))...)
	claims := jwt.Claims{Subject: customer, Expiry: jwt.NewNumericDate(time.Now().Add(tokenLife))}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, nil)
	if err != nil {
		panic(err) // never: the key is long enough
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		panic(err) // never: the claims are plain values
	}
	return token
}

// Tokens are the tokens of many customers. They have the same length and share a slice,
// which the garbage collector does not scan.
type Tokens struct {
	text   []byte
	length int
}

// Mint signs the tokens of a plan's first n customers. It runs before an attack, so that
// signing takes no CPU from it.
func Mint(ctx context.Context, seed uint64, n int, secret string) (*Tokens, error) {
	plan := Plan{Seed: seed}
	first := Token(plan.customer(0), secret)
	t := &Tokens{text: make([]byte, n*len(first)), length: len(first)}
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for seq := w; seq < n; seq += workers {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				token := Token(plan.customer(seq), secret)
				if copy(t.Of(seq), token) != t.length || len(token) != t.length {
					return errors.New("the customers' tokens differ in length")
				}
			}
			return nil
		})
	}
	return t, group.Wait()
}

// Of returns the token of request seq.
func (t *Tokens) Of(seq int) []byte { return t.text[seq*t.length : (seq+1)*t.length] }

// Len returns the number of tokens.
func (t *Tokens) Len() int { return len(t.text) / t.length }

// transport replaces vegeta's request number seq by the planned request. A
// vegeta.Targeter cannot do that: it does not get seq, and vegeta copies each header of
// what it returns.
type transport struct {
	ctx    context.Context // the attack's
	plan   *Plan
	tokens *Tokens
	urls   []*url.URL // by target
	base   *http.Transport

	// calls are by request. They and the orders to be paid or cancelled are nil if all
	// requests are orders.
	calls  []made
	placed chan placed

	underWay, peak atomic.Int64
}

func newTransport(ctx context.Context, plan *Plan, tokens *Tokens, connections int) (*transport, error) {
	t := &transport{ctx: ctx, plan: plan, tokens: tokens, base: newBase(connections)}
	if plan.Mix.sum() > 0 {
		t.calls, t.placed = make([]made, plan.Requests()), make(chan placed, maxPlaced)
	}
	for _, target := range plan.Targets {
		u, err := url.Parse(strings.TrimSuffix(target, "/"))
		if err != nil {
			return nil, fmt.Errorf("--target %q: %w", target, err)
		}
		t.urls = append(t.urls, u)
	}
	return t, nil
}

// newBase returns the transport of every request of the harness, so that a check before
// the attack takes the same path as the attack.
func newBase(connections int) *http.Transport {
	return &http.Transport{
		// No proxy: the attack would measure the proxy.
		DialContext:         (&net.Dialer{Timeout: RequestTimeout}).DialContext,
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		MaxConnsPerHost:     connections,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true, // answers of 300 bytes
	}
}

// NewClient returns a client with at most that many connections to each host. Like the
// attack, it uses no proxy and follows no redirects.
func NewClient(connections int) *http.Client { return clientOf(newBase(connections)) }

func clientOf(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirect is an answer
		},
	}
}

// RoundTrip sends the planned request instead of vegeta's.
func (t *transport) RoundTrip(hit *http.Request) (*http.Response, error) {
	seq, err := strconv.Atoi(hit.Header.Get("X-Vegeta-Seq"))
	if err != nil || seq < 0 || seq >= t.tokens.Len() {
		return nil, fmt.Errorf("not a planned request: X-Vegeta-Seq %q", hit.Header.Get("X-Vegeta-Seq"))
	}
	// The context ends with the request's timeout and with the attack. http.Client's
	// Timeout covers only the first.
	ctx, cancel := context.WithTimeout(t.ctx, RequestTimeout)
	t.begin()
	res, err := t.base.RoundTrip(t.request(ctx, seq))
	if err != nil {
		t.end()
		cancel()
		return nil, err
	}
	res.Body = &body{res.Body, t, cancel}
	return res, nil
}

func (t *transport) begin() {
	n := t.underWay.Add(1)
	for peak := t.peak.Load(); n > peak && !t.peak.CompareAndSwap(peak, n); {
		peak = t.peak.Load()
	}
}

func (t *transport) end() { t.underWay.Add(-1) }

// decide chooses the call of request seq.
func (t *transport) decide(seq int) made {
	if t.calls == nil {
		return made{}
	}
	m := made{call: t.plan.call(seq)}
	if m.call == Pay || m.call == Cancel {
		select {
		case m.of = <-t.placed:
		default:
			m.call = Place
		}
	}
	t.calls[seq] = m
	return m
}

// made returns the call of a request that was sent.
func (t *transport) made(seq int) made {
	if t.calls == nil {
		return made{}
	}
	return t.calls[seq]
}

// keep keeps an accepted order, to be paid or cancelled later.
func (t *transport) keep(a *Answer, body []byte) {
	if t.placed == nil || a.Outcome != Accepted {
		return
	}
	select {
	case t.placed <- placed{a.Seq, a.OrderID, idText(body)}:
	default:
	}
}

// request builds request seq. http.NewRequest would parse the URL again and set
// GetBody. With GetBody, net/http repeats a request that has an Idempotency-Key after the
// connection breaks, which would hide a lost answer.
func (t *transport) request(ctx context.Context, seq int) *http.Request {
	m := t.decide(seq)
	w := t.plan.wire(seq, m)
	u := *t.urls[t.plan.target(seq)]
	u.RawPath = u.EscapedPath() + w.path
	if u.Path, _ = url.PathUnescape(u.RawPath); u.Path == u.RawPath { // wire has escaped it
		u.RawPath = ""
	}
	req := &http.Request{
		Method: w.method, URL: &u, Host: u.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": userAgent},
		Body:   http.NoBody,
	}
	customer := seq
	switch m.call {
	case Place:
		req.Header["Idempotency-Key"] = []string{t.plan.key(seq)}
	case Pay, Cancel:
		customer = m.of.seq
	case Browse:
		return req.WithContext(ctx)
	}
	req.Header["Authorization"] = []string{"Bearer " + string(t.tokens.Of(customer))}
	if w.body != "" {
		req.Header["Content-Type"] = contentType
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(w.body)), int64(len(w.body))
	}
	return req.WithContext(ctx)
}

var (
	contentType = []string{"application/json"}
	userAgent   = []string{"flashsale-loadtest"}
)

// body ends the request when vegeta closes it, once.
type body struct {
	io.ReadCloser
	transport *transport
	cancel    context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	defer b.transport.end()
	return b.ReadCloser.Close()
}
