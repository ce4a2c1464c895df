package attack

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Results write the result of each request, in the order of the answers.
type Results struct {
	buffer *bufio.Writer
	line   func(io.Writer) func(*Plan, time.Time, *Answer) error
	err    error
}

// formats are by the extension of the file.
var formats = map[string]func(io.Writer) func(*Plan, time.Time, *Answer) error{
	".jsonl": func(w io.Writer) func(*Plan, time.Time, *Answer) error {
		enc := json.NewEncoder(w)
		return func(p *Plan, _ time.Time, a *Answer) error { return enc.Encode(lineOf(p, a)) }
	},
	".bin":  func(w io.Writer) func(*Plan, time.Time, *Answer) error { return ofVegeta(vegeta.NewEncoder(w)) },
	".json": func(w io.Writer) func(*Plan, time.Time, *Answer) error { return ofVegeta(vegeta.NewJSONEncoder(w)) },
}

// CheckResults returns an error if the file's extension names no format: .jsonl is one
// Line for each request, .bin and .json are vegeta's.
func CheckResults(file string) error {
	if formats[filepath.Ext(file)] == nil {
		return fmt.Errorf("--results %s: the name must end with .jsonl (JSON lines), .bin or .json (vegeta's formats)", file)
	}
	return nil
}

// resultsBuffer is large enough for few writes, and lets a reader follow the file.
const resultsBuffer = 64 << 10

// NewResults writes results to w, in the format that CheckResults has found in the name of
// the file.
func NewResults(file string, w io.Writer) *Results {
	return &Results{buffer: bufio.NewWriterSize(w, resultsBuffer), line: formats[filepath.Ext(file)]}
}

// Err returns the first error of writing. Call it after the attack.
func (r *Results) Err() error { return r.err }

// record writes answers whose number is given to write. It has room for all of them, so
// that the attack never waits for a disk. written waits until all are written.
func record(list []*Results, plan *Plan, schedule *Schedule, answers []Answer) (write func(seq int), written func()) {
	if len(list) == 0 {
		return func(int) {}, func() {}
	}
	numbers, done := make(chan int32, len(answers)), make(chan struct{})
	go func() {
		defer close(done)
		encode := make([]func(*Plan, time.Time, *Answer) error, len(list))
		for i, r := range list {
			encode[i] = r.line(r.buffer)
		}
		for seq := range numbers {
			for i, r := range list {
				if r.err == nil {
					r.err = encode[i](plan, schedule.Began, &answers[seq])
				}
			}
		}
		for _, r := range list {
			r.err = errors.Join(r.err, r.buffer.Flush())
		}
	}()
	return func(seq int) { numbers <- int32(seq) }, func() {
		close(numbers)
		<-done
	}
}

// Line is the result of one request as a line of JSON. Times are nanoseconds from the
// start of the attack; the latency counts from when the request was due.
type Line struct {
	Seq     int           `json:"seq"`
	Call    string        `json:"call"`
	Due     time.Duration `json:"due_ns"`
	Sent    time.Duration `json:"sent_ns"`
	Latency time.Duration `json:"latency_ns"`
	Status  int           `json:"status"`
	Outcome string        `json:"outcome"`
	Reason  string        `json:"reason,omitempty"`
	Replica string        `json:"replica,omitempty"`
	SKU     string        `json:"sku,omitempty"`
	OrderID string        `json:"order_id,omitempty"`
}

func lineOf(p *Plan, a *Answer) Line {
	l := Line{
		Seq: a.Seq, Call: a.Call.String(), Due: a.Due, Sent: a.Sent, Latency: a.Latency(),
		Status: a.Status, Outcome: a.Outcome.String(), Reason: a.Reason, Replica: a.Replica,
	}
	switch a.Call {
	case Place:
		l.SKU = p.SKUs[p.sku(a.Seq)]
	case Pay, Cancel:
		l.SKU = p.SKUs[p.sku(a.Of)]
	}
	if a.OrderID != uuid.Nil {
		l.OrderID = a.OrderID.String()
	}
	return l
}

// ofVegeta writes vegeta's results. Their time is when the request was due, so that
// vegeta's latencies are the attack's.
func ofVegeta(enc vegeta.Encoder) func(*Plan, time.Time, *Answer) error {
	return func(p *Plan, began time.Time, a *Answer) error {
		w := p.wire(a.Seq, made{a.Call, placed{text: a.OrderID.String()}})
		res := vegeta.Result{
			Attack: "flashsale", Seq: uint64(a.Seq), Code: uint16(a.Status), Timestamp: began.Add(a.Due), Latency: a.Latency(),
			BytesIn: uint64(a.BytesIn), BytesOut: uint64(len(w.body)), Method: w.method, URL: p.Targets[p.target(a.Seq)] + w.path,
		}
		if a.Status < 200 || a.Status >= 400 {
			res.Error = a.Reason
		}
		return enc.Encode(&res)
	}
}
