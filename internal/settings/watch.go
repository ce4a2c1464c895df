package settings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/etcdwatch"
)

const (
	listTimeout = 2 * time.Second // bounds one list: after it another node is asked
	// listEvery is how often the settings are listed beside the watch: a node can hang
	// without closing its streams, and one that was restored from a backup sends no
	// events until it has caught up.
	listEvery   = 5 * time.Second
	maxReported = 10 // how many ignored values and keys a report names
)

var errWentBack = errors.New("etcd's revision decreased")

// Config configures a Watch. All fields are required.
type Config struct {
	Store Store
	Flags Values // the values of settings that etcd does not have
	// Apply is called with all values after the first list and after each change. Calls
	// do not overlap.
	Apply  func(Values)
	Logger *slog.Logger
}

// Watch applies the settings in etcd, and the flags, to one replica.
type Watch struct {
	cfg Config

	// Only the goroutine of Load, and then of Run, uses these.
	revision int64   // etcd's revision that keys are as of
	applied  *Values // nil before the first Apply

	mu     sync.Mutex // guards the fields below
	keys   map[string]key
	more   bool  // etcd has unknown keys that are not in keys
	broken error // why there is no watch at present
}

// key is a key of etcd under the prefix.
type key struct {
	revision int64
	ignored  error   // why its value is ignored
	unknown  bool    // there is no such setting
	valid    *string // its last valid value
}

// New makes a Watch. It does nothing before Load.
func New(cfg Config) *Watch { return &Watch{cfg: cfg, keys: map[string]key{}} }

// Load reads the settings and applies them, so that a replica starts with the same
// values as the others. It must return before Run is called.
func (w *Watch) Load(ctx context.Context) error { return w.list(ctx, 0) }

// Run follows the settings until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	(&etcdwatch.Watch{
		Client: w.cfg.Store.Client, Prefix: w.cfg.Store.Prefix, List: w.list, Apply: w.take, Interval: listEvery,
		Tick: func(ctx context.Context, _ time.Duration) error { return w.list(ctx, 0) },
		Broken: func(err error) {
			w.mu.Lock()
			w.broken = err
			w.mu.Unlock()
			w.cfg.Logger.Warn("settings: watch ended; opening it again", "error", err)
		},
	}).Run(ctx)
}

// Report says which values are ignored and why, and whether the watch is broken; ""
// if all values apply.
func (w *Watch) Report() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines, unknown []string
	for _, name := range slices.Sorted(maps.Keys(w.keys)) {
		switch k := w.keys[name]; {
		case k.unknown:
			unknown = append(unknown, fmt.Sprintf("%.64s: %s", name, k.ignored))
		case k.ignored != nil:
			lines = append(lines, fmt.Sprintf("%s: %s", name, k.ignored))
		}
	}
	lines = append(lines, unknown...) // settings come first
	if len(lines) > maxReported || w.more {
		lines = append(lines[:min(len(lines), maxReported)], "and others")
	}
	switch {
	case len(lines) > 0:
		return "ignored: " + strings.Join(lines, "; ")
	case w.broken != nil:
		return "the watch of etcd is broken: settings may be outdated"
	}
	return ""
}

// list reads and applies all settings.
func (w *Watch) list(ctx context.Context, _ int64) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	listing, err := w.cfg.Store.List(ctx)
	if err != nil {
		return err
	}
	// The list is linearizable: only another etcd, or a restored one, goes back.
	wentBack := listing.Revision < w.revision
	w.revision = listing.Revision
	w.mu.Lock()
	maps.DeleteFunc(w.keys, func(name string, _ key) bool {
		return !slices.ContainsFunc(listing.Entries, func(e Entry) bool { return e.Name == name })
	})
	w.more, w.broken = listing.More, nil
	for _, e := range listing.Entries {
		w.see(e)
	}
	w.mu.Unlock()
	w.apply()
	if wentBack {
		return fmt.Errorf("%w to %d", errWentBack, listing.Revision) // the watch waits for the old revision
	}
	return nil
}

// take applies events that the last list does not include.
func (w *Watch) take(events []*clientv3.Event) {
	listed := w.revision // one revision may have several events
	w.mu.Lock()
	for _, event := range events {
		if event.Kv.ModRevision <= listed {
			continue
		}
		w.revision = event.Kv.ModRevision
		if name := w.cfg.Store.name(event.Kv.Key); event.Type == clientv3.EventTypeDelete {
			delete(w.keys, name)
		} else {
			w.see(Entry{Name: name, Value: string(event.Kv.Value), Revision: event.Kv.ModRevision})
		}
	}
	w.mu.Unlock()
	w.apply()
}

// see takes in one entry, and logs a value that is ignored once. It remembers at most
// maxUnknown unknown keys. The caller holds w.mu.
func (w *Watch) see(e Entry) {
	setting, err := Find(e.Name)
	before, seen := w.keys[e.Name]
	now := key{revision: e.Revision, unknown: err != nil, valid: before.valid}
	if now.unknown && !seen && len(w.keys) >= maxUnknown {
		w.more = true
		return
	}
	if err == nil {
		err = setting.Check(e.Value)
	}
	if now.ignored = err; err == nil {
		now.valid = &e.Value
	} else if before.ignored == nil || before.revision != e.Revision {
		w.cfg.Logger.Warn("a setting in etcd is not valid and is ignored", "setting", quote(e.Name), "error", err)
	}
	w.keys[e.Name] = now
}

// apply calls Apply if a value has changed.
func (w *Watch) apply() {
	values, revisions := w.cfg.Flags, map[string]int64{}
	w.mu.Lock()
	for _, s := range table {
		k := w.keys[s.Name]
		if k.valid != nil {
			_ = s.parse(*k.valid, &values) // see has checked it
		}
		revisions[s.Name] = cmp.Or(k.revision, w.revision) // a deleted key has none
	}
	w.mu.Unlock()
	if w.applied != nil && values == *w.applied {
		return
	}
	before := *cmp.Or(w.applied, &w.cfg.Flags)
	for _, s := range table {
		if from, to := s.show(before), s.show(values); from != to {
			w.cfg.Logger.Info("setting changed", "setting", s.Name, "before", from, "after", to, "revision", revisions[s.Name])
		}
	}
	w.applied = &values
	w.cfg.Apply(values)
}
