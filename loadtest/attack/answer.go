package attack

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Outcome is what a buyer learned from an answer. Every request has exactly one.
type Outcome uint8

// The outcomes.
const (
	// Accepted: 201, an order was promised.
	Accepted Outcome = iota
	// SoldOut: 409, the units asked for are not there.
	SoldOut
	// Ambiguous: the order may stand or not: 504, or no answer at all.
	Ambiguous
	// Refused: any other answer. The service says that nothing was applied.
	Refused
)

// Answer is the service's answer to one request. Its times count from the
// attack's beginning.
type Answer struct {
	Seq     int
	Outcome Outcome
	// Status is the HTTP status, 0 where none came.
	Status int
	// Reason is the slug of the problem, or what became of the connection.
	Reason string
	// OrderID is the promised order's; nil for a 201 that names none.
	OrderID uuid.UUID
	// Replayed: the service says that an earlier request had made the order.
	Replayed bool
	// Due is when the plan wanted the request to be sent, Sent when it was, and
	// Done when its answer had been read.
	Due, Sent, Done time.Duration
}

// Latency counts from when the request was due. Counted from when it was sent,
// a harness that is held up would leave its own waiting out of the figures:
// coordinated omission.
func (a *Answer) Latency() time.Duration { return a.Done - a.Due }

// The slugs of problems, as they stand at the end of their type, that are a
// buyer's bad luck and no error.
const (
	soldOut      = "sold-out"
	insufficient = "insufficient-stock"
)

// reader turns vegeta's results into answers. It is for one goroutine.
type reader struct {
	reasons map[string]string // by itself: a million answers share few texts
}

func (r *reader) read(res *vegeta.Result) Answer {
	a := Answer{Seq: int(res.Seq), Status: int(res.Code), Outcome: Refused}
	switch res.Code {
	case 0: // also a body that broke off: its status says nothing then
		a.Outcome, a.Reason = Ambiguous, r.intern(connectionTrouble(res.Error))
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

// orderID is the id in an order's body, or nil. An answer that promises no order
// by name is counted as accepted all the same: the audit will not find its row.
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

// slug is the end of a problem's type: "sold-out" of "/errors/sold-out".
func slug(body []byte) string {
	var problem struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(body, &problem) != nil || problem.Type == "" {
		return "no problem+json"
	}
	return problem.Type[strings.LastIndexByte(problem.Type, '/')+1:]
}

// connectionTrouble is the innermost cause in the text of net/http's error,
// which is all that vegeta hands on.
func connectionTrouble(text string) string {
	if strings.Contains(text, "deadline exceeded") {
		return "no answer in " + requestTimeout.String()
	}
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}
