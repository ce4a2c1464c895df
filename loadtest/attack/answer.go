package attack

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Outcome is what an answer tells a buyer. Every request has exactly one.
type Outcome uint8

// The outcomes.
const (
	// Accepted: 201, the order was made.
	Accepted Outcome = iota
	// SoldOut: 409, there are not enough units.
	SoldOut
	// Ambiguous: 504 or no answer; the order may or may not exist.
	Ambiguous
	// Refused: any other answer. Nothing was applied.
	Refused
)

// Answer is the service's answer to one request. Times count from the start of the
// attack.
type Answer struct {
	Seq     int
	Outcome Outcome
	// Status is the HTTP status; 0 if there was no answer.
	Status int
	// Reason is the slug of the problem, or the error of the connection.
	Reason string
	// OrderID is the id of an accepted order; nil if a 201 has none.
	OrderID uuid.UUID
	// Replayed says that an earlier request made the order.
	Replayed bool
	// Due is when the plan wanted the request to be sent, Sent when it was sent, and Done
	// when its answer was read.
	Due, Sent, Done time.Duration
}

// Latency counts from Due. If it counted from Sent, it would leave out the delay of a
// harness that falls behind: coordinated omission.
func (a *Answer) Latency() time.Duration { return a.Done - a.Due }

// The slugs of the problems that are not errors.
const (
	soldOut      = "sold-out"
	insufficient = "insufficient-stock"
)

// reader turns vegeta's results into answers. It is for one goroutine.
type reader struct {
	reasons map[string]string // interned: a million answers share few texts
}

func (r *reader) read(res *vegeta.Result) Answer {
	a := Answer{Seq: int(res.Seq), Status: int(res.Code), Outcome: Refused}
	switch res.Code {
	case 0: // also a body that broke off, whose status says nothing
		a.Outcome, a.Reason = Ambiguous, r.intern(connectionError(res.Error))
		return a
	case http.StatusCreated:
		a.Outcome = Accepted
		a.OrderID = orderID(res.Body)
		a.Replayed = res.Headers.Get("Idempotent-Replayed") == "true"
		return a
	case http.StatusGatewayTimeout:
		a.Outcome = Ambiguous
	}
	a.Reason = r.intern(slug(res.Body))
	if res.Code == http.StatusConflict && (a.Reason == soldOut || a.Reason == insufficient) {
		a.Outcome = SoldOut
	}
	return a
}

func (r *reader) intern(text string) string {
	if same, ok := r.reasons[text]; ok {
		return same
	}
	if r.reasons == nil {
		r.reasons = map[string]string{}
	}
	text = strings.Clone(text)
	r.reasons[text] = text
	return text
}

// orderID returns the id in an order's body, or nil. A 201 without an id still counts as
// accepted: the audit reports that its row is missing.
func orderID(body []byte) uuid.UUID {
	var order struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(body, &order) != nil {
		return uuid.Nil
	}
	id, err := uuid.Parse(order.ID)
	if err != nil {
		return uuid.Nil
	}
	return id
}

// slug returns the last part of a problem's type: "sold-out" of "/errors/sold-out".
func slug(body []byte) string {
	var problem struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(body, &problem) != nil || problem.Type == "" {
		return "no problem+json"
	}
	return problem.Type[strings.LastIndexByte(problem.Type, '/')+1:]
}

// connectionError returns the innermost cause in the text of an error of net/http; vegeta
// returns only the text.
func connectionError(text string) string {
	if strings.Contains(text, "deadline exceeded") {
		return "no answer in " + requestTimeout.String()
	}
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}
