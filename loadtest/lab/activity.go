package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// activity is something that the lab does, and its journal: messages that pages read from
// the beginning, so that a page that is loaded again shows the same.
type activity struct {
	About
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed after the last message
	moves  chan request  // of a game

	mu      sync.Mutex
	journal []message
	more    chan struct{} // closed with the next message
	result  any
}

type message struct {
	event string
	data  []byte // JSON on one line
}

func newActivity(about About) *activity {
	a := &activity{About: about, ended: make(chan struct{}), moves: make(chan request), more: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

func (a *activity) run(do func(context.Context, *activity) error) {
	defer close(a.ended)
	defer a.cancel()
	switch err := do(a.ctx, a); {
	case err == nil:
		a.say("end", struct{}{})
	case errors.Is(err, context.Canceled) && a.ctx.Err() != nil:
		a.say("stopped", struct{}{})
	default:
		a.say("failed", Problem{Message: err.Error()})
	}
}

func (a *activity) over() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// say adds a message to the journal.
//
// The last message of each activity is one of: "end", "stopped" by a person, or "failed"
// with a Problem.
func (a *activity) say(event string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		event, data = "failed", []byte(strconv.Quote(err.Error()))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.journal = append(a.journal, message{event, data})
	close(a.more)
	a.more = make(chan struct{})
}

// keep sets the result of the activity, which can be asked for by its ID.
func (a *activity) keep(result any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.result = result
}

func (a *activity) kept() any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.result
}

// from returns the messages from the nth on, and what is closed with the next one.
func (a *activity) from(n int) ([]message, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.journal[min(n, len(a.journal)):], a.more
}

// events sends the journal as server-sent events, and goes on as it grows. The id of each
// event is its place, so that a browser that connects again misses nothing.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	a := s.find(w, r)
	if a == nil {
		return
	}
	n := 0
	if last, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 31); err == nil { // 31: adding 1 cannot overflow
		n = int(last) + 1
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	for {
		over := a.over() // before the journal is read: its last message is then there
		some, more := a.from(n)
		for _, m := range some {
			if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", n, m.event, m.data); err != nil {
				return
			}
			n++
		}
		if out.Flush() != nil || over {
			return
		}
		select {
		case <-more:
		case <-a.ended:
		case <-r.Context().Done():
			return
		}
	}
}
