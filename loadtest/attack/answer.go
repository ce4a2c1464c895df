package attack

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unique"

	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Outcome is what an answer tells a buyer. Every request has exactly one.
type Outcome uint8

func (o Outcome) String() string {
	return [...]string{"accepted", "sold-out", "ambiguous", "error", "served"}[o]
}

// The outcomes.
const (
	// Accepted: 201, the order was made.
	Accepted Outcome = iota
	// SoldOut: 409, there are not enough units.
	SoldOut
	// Ambiguous: no answer, or a 5xx but 501 and 503, by which a service or a proxy before it
	// says that it failed on the way. The order may or may not exist, or be paid or cancelled.
	Ambiguous
	// Refused: any other answer. Nothing was applied.
	Refused
	// Served: a call that is no order succeeded.
	Served
)

// Answer is the service's answer to one request. Times count from the start of the
// attack.
type Answer struct {
	Seq     int
	Call    Call
	Outcome Outcome
	// Status is the HTTP status; 0 if there was no answer.
	Status int
	// Reason is the slug of the problem, or the error of the connection.
	Reason string
	// OrderID is the id of an accepted order, nil if a 201 has none, or the id of the order
	// that was to be paid or cancelled.
	OrderID uuid.UUID
	// Of is the request that made the order that was to be paid or cancelled.
	Of int
	// Replica is the replica that answered, by X-Replica; "" if the answer names none.
	Replica string
	// Replayed says that an earlier request made the order.
	Replayed bool
	// Due is when the request was to be sent by the plan, Sent when it was sent, and Done
	// when its answer was read.
	Due, Sent, Done time.Duration
	// BytesIn is the length of the answer's body, of which the first 64 KiB are read.
	BytesIn int
}

// Latency counts from Due. If it counted from Sent, it would leave out the delay of a
// harness that falls behind: coordinated omission.
func (a *Answer) Latency() time.Duration { return a.Done - a.Due }

// OutcomeOf returns the outcome of an answer with that status and slug.
func OutcomeOf(status int, slug string) Outcome {
	switch {
	case status == http.StatusCreated:
		return Accepted
	case isAmbiguous(status):
		return Ambiguous
	case status == http.StatusConflict && (slug == "sold-out" || slug == "insufficient-stock"):
		return SoldOut
	}
	return Refused
}

func isAmbiguous(status int) bool {
	return status == 0 || status >= 500 && status != http.StatusNotImplemented && status != http.StatusServiceUnavailable
}

// outcomeOf returns the outcome of a call. A read that got no answer is not ambiguous:
// there was nothing to be applied.
func outcomeOf(call Call, status int, slug string) Outcome {
	switch {
	case call == Place:
		return OutcomeOf(status, slug)
	case status >= http.StatusOK && status < http.StatusMultipleChoices:
		return Served
	case call != Browse && isAmbiguous(status):
		return Ambiguous
	}
	return Refused
}

// read turns vegeta's result into an answer.
func read(res *vegeta.Result, call Call) Answer {
	var a Answer
	if res.Code == 0 { // also a body that broke off, whose status says nothing
		a = NoAnswer(res.Error)
	} else {
		a = ReadAnswer(int(res.Code), res.Headers, res.Body)
	}
	a.Seq, a.Call = int(res.Seq), call
	if a.Outcome = outcomeOf(call, a.Status, a.Reason); a.Outcome == Served {
		a.Reason = ""
	}
	return a
}

// NoAnswer describes a request that got no complete answer, by the connection's error.
func NoAnswer(text string) Answer {
	return Answer{Outcome: Ambiguous, Reason: unique.Make(ReasonOf(text)).Value()}
}

// noRetry is added to the reason of a 503 that does not say when to try again.
const noRetry = ", without Retry-After"

// ReadAnswer returns what an HTTP answer says, without its request and times. A million
// answers share few reasons.
func ReadAnswer(status int, header http.Header, body []byte) Answer {
	a := Answer{Status: status, Replica: unique.Make(header.Get("X-Replica")).Value()}
	if status == http.StatusCreated {
		a.OrderID = orderID(body)
		a.Replayed = header.Get("Idempotent-Replayed") == "true"
	} else {
		reason := slug(body)
		if status == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
			reason += noRetry
		}
		a.Reason = unique.Make(reason).Value()
	}
	a.Outcome = OutcomeOf(a.Status, a.Reason)
	return a
}

// orderID returns the id in an order's body, or nil. A 201 without an id still counts as
// accepted: the audit reports that its row is missing.
func orderID(body []byte) uuid.UUID {
	var order struct {
		ID AnyID `json:"id"`
	}
	if json.Unmarshal(body, &order) != nil {
		return uuid.Nil
	}
	return uuid.UUID(order.ID)
}

// idText returns the id in an order's body as the service writes it, without quotes.
func idText(body []byte) string {
	var order struct {
		ID json.RawMessage `json:"id"`
	}
	_ = json.Unmarshal(body, &order) // orderID has decoded it
	var text string
	if json.Unmarshal(order.ID, &text) != nil {
		return string(order.ID) // a number
	}
	return text
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

// ReasonOf describes an error of a connection, given its text, in a few words; vegeta
// returns only the text.
func ReasonOf(text string) string {
	switch {
	case strings.Contains(text, "deadline exceeded"), strings.Contains(text, "i/o timeout"):
		return "no answer in " + RequestTimeout.String()
	case strings.HasSuffix(text, "EOF"):
		return "connection closed"
	}
	return strings.TrimSpace(text[strings.LastIndex(text, ": ")+1:])
}
