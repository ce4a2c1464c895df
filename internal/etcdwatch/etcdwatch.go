// Package etcdwatch follows the keys under a prefix of etcd. It guarantees that
// no change is missed: each time it opens a watch, it calls List before the first
// Apply. What a key means is left to the caller.
package etcdwatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"flashsale/internal/sleep"
)

const (
	// openTimeout bounds the opening of a watch: the node may hang, and then the
	// next attempt goes to another one.
	openTimeout = 2 * time.Second
)

// retry is the wait before a watch is opened again.
var retry = sleep.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond}

var errEnded = errors.New("the watch ended")

// Watch follows all keys under Prefix. Its functions are called from the
// goroutine of Run, one at a time. Their context ends with the watch.
//
//	open ---> List ---> Apply, Tick ---+
//	  ^                                |
//	  +----- wait <--- Broken <--------+  cancelled, compacted, no leader,
//	                                      or List or Tick returned an error
type Watch struct {
	Client *clientv3.Client
	Prefix string
	// Stream, if set, gives the watch a gRPC stream of its own. A watch that asks for
	// progress (clientv3.Client.RequestProgress with the context of Tick) needs one:
	// etcd answers only when all watches of the stream are up to date.
	Stream string
	// List reads all keys. The watch begins at revision; List must read the keys as
	// of that revision or a later one.
	List func(ctx context.Context, revision int64) error
	// Apply is given the events of one message, in order. There may be none, and
	// there may be changes that List has already read.
	Apply func(events []*clientv3.Event)
	// Tick is called every Interval with the time since the last message of the
	// watch, so that it can end a watch whose node hangs without closing its streams.
	Tick     func(ctx context.Context, silence time.Duration) error
	Interval time.Duration
	// Broken is called each time a watch has ended, with the reason.
	Broken func(err error)
}

// Run keeps a watch open until ctx ends: it opens the watch again when it breaks.
func (w *Watch) Run(ctx context.Context) {
	for pause := retry; ctx.Err() == nil; _ = sleep.For(ctx, pause.Next()) {
		listed, err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if listed {
			pause.Reset()
		}
		w.Broken(err)
	}
}

// follow serves one watch until it ends. It names no start revision, so the watch starts
// at the current one, and it calls List afterwards. To list first and watch from that
// revision would be slower: if the revision is already in the past, etcd starts the
// watch only in a loop that runs every 100 ms.
func (w *Watch) follow(ctx context.Context) (listed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a watch that failed must be cancelled as well
	// Without WithRequireLeader, a node that is cut off would stay silent.
	watchCtx := clientv3.WithRequireLeader(ctx)
	if w.Stream != "" { // the client opens one stream for each distinct set of metadata
		watchCtx = metadata.AppendToOutgoingContext(watchCtx, "stream", w.Stream)
	}
	opening := time.AfterFunc(openTimeout, cancel) // Watch blocks until it is open
	messages := w.Client.Watch(watchCtx, w.Prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	opening.Stop()
	heard := time.Now()
	ticker := time.NewTicker(w.Interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case r, ok := <-messages:
			if !ok {
				return listed, errEnded
			}
			if err := r.Err(); err != nil {
				return listed, err // cancelled, compacted, or no leader
			}
			if r.Created {
				if err := w.List(watchCtx, r.Header.Revision); err != nil {
					return false, fmt.Errorf("list %s: %w", w.Prefix, err)
				}
				listed = true
			}
			w.Apply(r.Events)
			heard = time.Now()
		case <-ticker.C:
			if err := w.Tick(watchCtx, time.Since(heard)); err != nil {
				return listed, err
			}
		}
	}
	return listed, errEnded
}
