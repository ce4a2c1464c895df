package settings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// openTimeout bounds the opening of a watch, and listTimeout one list: a node
	// that hangs is left for another one.
	openTimeout = 2 * time.Second
	listTimeout = 2 * time.Second
	// compareEvery is how often the keys are listed though the watch is silent,
	// as it mostly is: a node can hang without closing its streams, and one that
	// was restored from a backup says nothing until it has caught up.
	compareEvery = 5 * time.Second
	// retryPause and retryPauseMax are the waits before the watch is opened again.
	retryPause    = 20 * time.Millisecond
	retryPauseMax = 500 * time.Millisecond
	// reported is how many wrong values and keys readiness names: people read it.
	reported = 10
)

var (
	errWatchEnded = errors.New("the watch ended")
	errWentBack   = errors.New("etcd's revision went back")
)

// Config is what a Watch is made of. All of it is required.
type Config struct {
	Store Store
	// Flags are the values where etcd has none.
	Flags Values
	// Apply is called with all values at the first list, and whenever one has
	// changed; never twice at the same time.
	Apply  func(Values)
	Logger *slog.Logger
}

// Watch keeps a replica's values what etcd and the flags say.
type Watch struct {
	cfg Config

	// Only the goroutine of Load, and then of Run, touches these.
	revision int64             // of etcd, that good and bad are as of
	good     map[string]string // the last valid value of each key that stands in etcd
	values   Values
	applied  bool

	mu      sync.Mutex // guards all below
	bad     map[string]refused
	more    bool  // keys stand there that are no settings', and not in bad
	trouble error // why nothing is followed at present
}

// refused is a value that changed nothing.
type refused struct {
	why      error
	revision int64
	stranger bool // there is no such setting
}

// New makes a Watch. It does nothing before Load.
func New(cfg Config) *Watch {
	return &Watch{cfg: cfg, good: map[string]string{}, bad: map[string]refused{}}
}

// Load reads the settings and applies them: a replica does not begin with what
// its flags say when the others do otherwise. It must return before Run is called.
func (w *Watch) Load(ctx context.Context) error { return w.list(ctx) }

// Run follows the settings until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	for pause := retryPause; ctx.Err() == nil; pause = min(2*pause, retryPauseMax) {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		w.setTrouble(err)
		w.cfg.Logger.Warn("settings: opens its watch again", "error", err)
		if time.Since(began) > 2*retryPauseMax {
			pause = retryPause // it had worked
		}
		_ = sleep.For(ctx, sleep.Jittered(pause))
	}
}

// Report says which values are not in force, and why; "" when all are.
func (w *Watch) Report() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines, strangers []string
	for name, bad := range w.bad {
		line := fmt.Sprintf("%.64s: %s", name, bad.why)
		if bad.stranger {
			strangers = append(strangers, line)
		} else {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	slices.Sort(strangers)
	lines = append(lines, strangers...) // a setting that is not what it should be comes first
	if len(lines) > reported || w.more {
		lines = append(lines[:min(len(lines), reported)], "and others")
	}
	switch {
	case len(lines) > 0:
		return "ignored: " + strings.Join(lines, "; ")
	case w.trouble != nil:
		return "etcd is not being followed"
	}
	return ""
}

// follow lists the settings and then applies what one watch shows, until that
// fails. The watch begins right behind the list, so that nothing is missed.
func (w *Watch) follow(ctx context.Context) error {
	if err := w.list(ctx); err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel() // one that failed must be cancelled as well
	opening := time.AfterFunc(openTimeout, cancel)
	// Without a required leader, a node that was cut off would go on saying nothing.
	events := w.cfg.Store.Client.Watch(clientv3.WithRequireLeader(watching), w.cfg.Store.Prefix,
		clientv3.WithPrefix(), clientv3.WithRev(w.revision+1))
	opening.Stop()
	w.setTrouble(nil)
	compare := time.NewTicker(compareEvery)
	defer compare.Stop()
	for {
		select {
		case r, ok := <-events:
			if !ok {
				return errWatchEnded
			}
			if err := r.Err(); err != nil {
				return err // cancelled, compacted, or no leader
			}
			w.take(r.Events)
		case <-compare.C:
			if err := w.list(ctx); err != nil {
				return err
			}
		}
	}
}

// list makes what is known what stands in etcd.
func (w *Watch) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	listing, err := w.cfg.Store.List(ctx)
	if err != nil {
		return err
	}
	revision := listing.Revision
	// Linearizable: only another etcd, or one restored from a backup, goes back.
	wentBack := revision < w.revision
	w.revision = revision
	stands := map[string]bool{}
	for _, e := range listing.Entries {
		stands[e.Name] = true
	}
	for _, s := range table {
		if !stands[s.Name] {
			delete(w.good, s.Name)
		}
	}
	w.mu.Lock()
	for name := range w.bad {
		if !stands[name] {
			delete(w.bad, name)
		}
	}
	w.more = listing.More
	w.mu.Unlock()
	for _, e := range listing.Entries { // there is room for them now
		w.see(e)
	}
	w.apply()
	if wentBack {
		return fmt.Errorf("%w to %d", errWentBack, revision) // the watch waits for what was
	}
	return nil
}

// take applies what a watch has shown. A list may have been there before it.
func (w *Watch) take(events []*clientv3.Event) {
	known := w.revision // one revision may have several events
	for _, event := range events {
		if event.Kv.ModRevision <= known {
			continue
		}
		w.revision = event.Kv.ModRevision
		name := w.cfg.Store.name(event.Kv.Key)
		if event.Type == clientv3.EventTypeDelete {
			delete(w.good, name)
			w.mu.Lock()
			delete(w.bad, name)
			w.mu.Unlock()
			continue
		}
		w.see(Entry{Name: name, Value: string(event.Kv.Value), Revision: event.Kv.ModRevision})
	}
	w.apply()
}

// see takes one entry in, or keeps it out and says so once. Of keys that are no
// settings it remembers maxStrangers, and that there are others.
func (w *Watch) see(e Entry) {
	setting, err := Find(e.Name)
	stranger := err != nil
	if err == nil {
		err = setting.Check(e.Value)
	}
	w.mu.Lock()
	before, known := w.bad[e.Name]
	switch {
	case err == nil:
		delete(w.bad, e.Name)
	case stranger && !known && len(w.bad) >= maxStrangers:
		w.more = true
		w.mu.Unlock()
		return
	default:
		w.bad[e.Name] = refused{why: err, revision: e.Revision, stranger: stranger}
	}
	w.mu.Unlock()
	if err == nil {
		w.good[e.Name] = e.Value
		return
	}
	if !known || before.revision != e.Revision {
		w.cfg.Logger.Warn("a setting in etcd is not valid, and is ignored", "setting", quote(e.Name), "error", err)
	}
}

// apply hands on what is now in force, if it is something else than before.
func (w *Watch) apply() {
	values := w.cfg.Flags
	for _, s := range table {
		if text, ok := w.good[s.Name]; ok {
			_ = s.parse(text, &values) // it was checked
		}
	}
	if w.applied && values == w.values {
		return
	}
	before := w.values
	if !w.applied {
		before = w.cfg.Flags
	}
	for _, s := range table {
		if from, to := s.show(before), s.show(values); from != to {
			w.cfg.Logger.Info("setting changed", "setting", s.Name, "from", from, "to", to)
		}
	}
	w.values, w.applied = values, true
	w.cfg.Apply(values)
}

func (w *Watch) setTrouble(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble = err
}
