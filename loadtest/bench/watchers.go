package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// watchersByAddress is the most streams from one address of the loopback: a replica
	// allows one address a tenth of all.
	watchersByAddress = 250
	// dialers is the number of streams that are opened at the same time.
	dialers = 64
	// reachTimeout bounds the wait until an update has reached all streams.
	reachTimeout = 30 * time.Second
)

// watchers are clients of GET /v1/events. They share the cores with the replica, so they
// parse nothing but the events of one SKU.
type watchers struct {
	conns   []net.Conn
	readers sync.WaitGroup
	failed  chan error // the first failure of a stream
	awaited atomic.Pointer[update]
}

// update is the state of a SKU that all streams must receive.
type update struct {
	name  []byte // of the SKU, as in an event
	units int64
	left  atomic.Int64  // streams
	last  time.Time     // when left became 0
	done  chan struct{} // closed then
}

// openWatchers opens n streams, from several addresses of the loopback.
func openWatchers(ctx context.Context, url string, n int) (*watchers, error) {
	addr := strings.TrimPrefix(url, "http://")
	w := &watchers{conns: make([]net.Conn, n), failed: make(chan error, 1)}
	opening, dialing := errgroup.WithContext(ctx)
	opening.SetLimit(dialers)
	for i := range n {
		opening.Go(func() error {
			from := net.IPv4(127, 0, byte(1+i/watchersByAddress/250), byte(1+i/watchersByAddress%250))
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: reachTimeout}
			conn, err := dialer.DialContext(dialing, "tcp", addr)
			if err != nil {
				return err
			}
			w.conns[i] = conn
			_, err = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
			return err
		})
	}
	if err := opening.Wait(); err != nil {
		w.close()
		return nil, fmt.Errorf("open %d event streams: %w", n, err)
	}
	for _, conn := range w.conns {
		w.readers.Go(func() {
			if err := w.read(conn); err != nil {
				select {
				case w.failed <- err:
				default:
				}
			}
		})
	}
	return w, nil
}

func (w *watchers) close() {
	for _, conn := range w.conns {
		if conn != nil {
			conn.Close()
		}
	}
	w.readers.Wait()
}

// expect begins to wait for a SKU's units. The caller then makes the change and calls
// arrived, which returns when the last stream received it.
func (w *watchers) expect(sku string, units int64) (arrived func(context.Context) (time.Time, error)) {
	u := &update{name: fmt.Appendf(nil, `"sku":%q`, sku), units: units, done: make(chan struct{})}
	u.left.Store(int64(len(w.conns)))
	w.awaited.Store(u)
	return func(ctx context.Context) (time.Time, error) {
		ctx, cancel := context.WithTimeout(ctx, reachTimeout)
		defer cancel()
		select {
		case <-u.done:
			return u.last, nil
		case err := <-w.failed:
			return time.Time{}, fmt.Errorf("an event stream: %w", err)
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%d of %d streams have not received an update: %w", u.left.Load(), len(w.conns), context.Cause(ctx))
		}
	}
}

// read reads a stream to its end.
func (w *watchers) read(conn net.Conn) error {
	var seen *update        // the last that this stream has received
	var text [4 << 10]byte  // longer than an event
	held, status := 0, true // the bytes of an incomplete line; whether the status line comes next
	for {
		n, err := conn.Read(text[held:])
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		rest := text[:held+n]
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				break
			}
			if status && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
				return fmt.Errorf("the answer is %s", line)
			}
			status, rest = false, after
			if u := w.awaited.Load(); u != nil && u != seen && u.reachedBy(line) {
				seen = u
				if u.left.Add(-1) == 0 {
					u.last = time.Now()
					close(u.done)
				}
			}
		}
		if held = copy(text[:], rest); held == len(text) {
			return errors.New("a line is too long for an event")
		}
	}
}

// reachedBy reports whether a line is the data of an event with the awaited units.
func (u *update) reachedBy(line []byte) bool {
	data, ok := bytes.CutPrefix(line, []byte("data: "))
	if !ok || !bytes.Contains(data, u.name) {
		return false
	}
	var event struct{ Units int64 }
	return json.Unmarshal(data, &event) == nil && event.Units >= u.units
}
