package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"flashsale/internal/sleep"
)

const (
	// openTimeout bounds the opening of a watch.
	openTimeout = 2 * time.Second
	// listTimeout bounds one page of the list.
	listTimeout = 2 * time.Second
	// listPage is how many keys are listed at once: about 256 KiB.
	listPage = 1000
	// askEvery is how often etcd is asked for an answer on the watch: a node can
	// hang without closing its streams. After a silence of so long the view is not
	// current any more, and the watch is opened again.
	askEvery = 500 * time.Millisecond
	silence  = 2 * time.Second
)

var (
	errWatchEnded = errors.New("the watch ended")
	errSilent     = errors.New("the watch is silent")
)

// follow keeps the view up to date until ctx ends.
func (m *Mirror) follow(ctx context.Context) {
	for pause := retryPause; ctx.Err() == nil; pause = min(2*pause, retryPauseMax) {
		began := time.Now()
		err := m.watch(ctx)
		m.desync()
		if ctx.Err() != nil {
			return
		}
		m.cfg.Metrics.Relists.Inc()
		m.cfg.Logger.Warn("mirror: opens its watch again", "error", err)
		if time.Since(began) > 2*retryPauseMax {
			pause = retryPause // it had worked
		}
		_ = sleep.For(ctx, sleep.Jittered(pause))
	}
}

// watch feeds the view from one watch until that fails. It asks for the present
// (revision 0), and lists afterwards: a watch that starts at a revision which is
// already past waits for a loop in the server that wakes every 100 ms.
func (m *Mirror) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // one that failed must be cancelled as well
	opening := time.AfterFunc(openTimeout, cancel)
	// Without a required leader, a node that was cut off would go on saying
	// nothing, or what it hears from others that were.
	ctx = clientv3.WithRequireLeader(ctx)
	// etcd answers on a stream only when all watches of the stream are up to date.
	// The client opens one stream for each metadata: this makes it the mirror's own.
	ctx = metadata.AppendToOutgoingContext(ctx, "stream", "mirror")
	events := m.cfg.Client.Watch(ctx, m.cfg.Prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	opening.Stop()
	heard := time.Now()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		select {
		case r, ok := <-events:
			if !ok {
				return errWatchEnded
			}
			if err := r.Err(); err != nil {
				return err // cancelled, compacted, or no leader
			}
			if r.Created {
				if err := m.list(ctx); err != nil {
					return err
				}
			}
			m.apply(r.Events)
			heard = time.Now()
		case <-ask.C:
			if time.Since(heard) > silence {
				return errSilent
			}
			m.askProgress(ctx)
		}
	}
}

// askProgress asks etcd to send its revision on the watch. It does not wait for
// the answer, but blocks while the client has no stream. ctx must be the watch's:
// it names the stream.
func (m *Mirror) askProgress(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	_ = m.cfg.Client.RequestProgress(ctx)
}

// list reads all keys as of one revision, which is not before the watch's.
func (m *Mirror) list(ctx context.Context) error {
	var kvs []*mvccpb.KeyValue
	var revision int64 // 0 is the newest; the first page tells which
	from, end := m.cfg.Prefix, clientv3.GetPrefixRangeEnd(m.cfg.Prefix)
	for {
		page, err := m.listPage(ctx, from, end, revision)
		if err != nil {
			return fmt.Errorf("list the mirror: %w", err)
		}
		kvs = append(kvs, page.Kvs...)
		if revision == 0 {
			revision = page.Header.Revision
		}
		if !page.More {
			break
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	m.install(revision, kvs)
	return nil
}

func (m *Mirror) listPage(ctx context.Context, from, end string, revision int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	return m.cfg.Client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(listPage))
}
