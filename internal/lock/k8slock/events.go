package k8slock

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flashsale/internal/sleep"
)

var eventKind = schema.GroupVersionResource{Version: "v1", Resource: "events"}

// The reasons of the events on a StockLock.
const (
	reasonGranted   = "Granted"
	reasonTakenOver = "TakenOver" // the grant of a dead holder was ended
	reasonLost      = "Lost"      // a grant ended without Unlock
)

const (
	// eventInterval is how often an event is written at most, however often its cause
	// occurs.
	eventInterval = time.Second
	// eventBurst is how many events are written in an interval at most, so that the
	// server has time for the locks.
	eventBurst = 20
	// eventPause is the wait after an event that was not written. Without the right, all
	// attempts fail.
	eventPause = 30 * time.Second
	// eventIdle is how long an event counts repetitions. The next one is a new event.
	eventIdle = 10 * time.Minute
	// eventLimit bounds the memory for events, as in client-go.
	eventLimit = 4096
)

// recorder writes the events of a Locker, one object for each lock and reason, which
// counts the repetitions. The locks do not wait for it.
type recorder struct {
	*objects[stockLock]
	owner string
	wake  chan struct{} // of size 1

	mu  sync.Mutex
	all map[cause]*series
}

// cause is what the repetitions of an event have in common.
type cause struct {
	object string
	uid    types.UID
	reason string
}

type series struct {
	cause
	message     string // of the last repetition
	count       int64
	first, last time.Time
	unwritten   bool
}

func newRecorder(l *objects[stockLock], owner string) *recorder {
	return &recorder{objects: l, owner: owner, wake: make(chan struct{}, 1), all: map[cause]*series{}}
}

// note records an event, to be written later. It does not block. An event that exceeds
// the limit is dropped.
func (r *recorder) note(c cause, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, now := r.all[c], time.Now()
	if s == nil {
		if len(r.all) == eventLimit {
			return
		}
		s = &series{cause: c, first: now}
		r.all[c] = s
	}
	s.message, s.last, s.unwritten = fmt.Sprintf(format, args...), now, true
	s.count++
	r.notify()
}

func (r *recorder) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run writes events until ctx ends.
func (r *recorder) run(ctx context.Context) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		pause := eventInterval
		for _, s := range r.due() {
			err := r.write(ctx, &s)
			if err == nil {
				failing = false
				continue
			}
			if !failing && ctx.Err() == nil {
				r.log.Warn("kubernetes lock: no events; the locks do not need them", "error", err)
			}
			failing, pause = true, eventPause
			r.again(s.cause)
			break
		}
		if sleep.For(ctx, pause) != nil {
			return
		}
	}
}

// due returns what to write now, and forgets idle events.
func (r *recorder) due() (due []series) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, s := range r.all {
		switch {
		case s.unwritten && len(due) == eventBurst:
			r.notify()
		case s.unwritten:
			s.unwritten = false
			due = append(due, *s)
		case time.Since(s.last) > eventIdle:
			delete(r.all, c)
		}
	}
	return due
}

// again requests another attempt to write an event.
func (r *recorder) again(c cause) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.all[c]; s != nil {
		s.unwritten = true
	}
	r.notify()
}

// component is the reporter of the events.
const component = "flashsale"

// write creates or changes an Event of the core API. Unlike those of events.k8s.io, its
// message can change: it names the last holder.
func (r *recorder) write(ctx context.Context, s *series) error {
	// Other processes and earlier series have other names.
	name := fmt.Sprintf("%s.%x", s.object, s.first.UnixNano())
	severity := "Warning"
	if s.reason == reasonGranted {
		severity = "Normal"
	}
	event := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event", "metadata": map[string]any{"name": name},
		"involvedObject": map[string]any{
			"apiVersion": stockLocks.GroupVersion().String(), "kind": "StockLock",
			"namespace": r.namespace, "name": s.object, "uid": string(s.uid),
		},
		"source": map[string]any{"component": component, "host": r.owner},
		"type":   severity, "reason": s.reason, "message": s.message, "count": s.count,
		"firstTimestamp": s.first.UTC().Format(time.RFC3339), "lastTimestamp": s.last.UTC().Format(time.RFC3339),
	}}
	_, err := send(ctx, r.objects, "write events/"+name, func(ctx context.Context) (*unstructured.Unstructured, error) {
		return r.events.Apply(ctx, name, event, metav1.ApplyOptions{FieldManager: component, Force: true})
	})
	return err
}
