package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// watchersByAddress is the most streams from one address of the loopback, as each needs a port.
	watchersByAddress = 250
	// watchersPause is the pause between two looks at all streams. Without it, each event
	// would wake the reader; with it, figures are up to that much too long.
	watchersPause = 5 * time.Millisecond
	// watchersRest is the pause while no update is awaited. What a stream has received meanwhile
	// stays in the kernel, and takes one read: the replica should have the cores.
	watchersRest = time.Second
	// reachTimeout bounds the wait until an update has reached all streams.
	reachTimeout = 30 * time.Second
	// maxEvent is longer than any event.
	maxEvent = 4 << 10
)

// watchers are clients of GET /v1/events. They share the cores with the replica, so one
// goroutine reads all of them with plain system calls, and parses nothing but the events
// of one SKU.
type watchers struct {
	poll    int
	all     []*watcher // by the order of opening
	byFD    map[int32]*watcher
	stopped atomic.Bool
	running sync.WaitGroup
	failed  chan error // the first failure of a stream
	awaited atomic.Pointer[update]
	expects chan struct{} // receives when an update is awaited; its buffer is 1
}

// watcher is one stream.
type watcher struct {
	fd   int
	ok   bool    // the status was 200
	rest []byte  // of an incomplete line
	seen *update // the last that has arrived
}

// update is the state of a SKU that all streams must receive.
type update struct {
	name  []byte // of the SKU, as in an event
	units int64
	left  int           // streams
	last  time.Time     // when left became 0
	done  chan struct{} // closed then
}

// openWatchers opens n streams of a replica on 127.0.0.1, from several addresses of the
// loopback.
func openWatchers(ctx context.Context, url string, n int) (w *watchers, err error) {
	to, err := netip.ParseAddrPort(strings.TrimPrefix(url, "http://"))
	if err == nil && !to.Addr().Is4() {
		err = errors.New("it has no IPv4 address")
	}
	if err != nil {
		return nil, fmt.Errorf("open streams of %s: %w", url, err)
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	w = &watchers{poll: poll, byFD: map[int32]*watcher{}, failed: make(chan error, 1), expects: make(chan struct{}, 1)}
	for i := range n {
		if err = context.Cause(ctx); err == nil {
			err = w.open(to, [4]byte{127, 0, byte(1 + i/watchersByAddress/250), byte(1 + i/watchersByAddress%250)})
		}
		if err != nil {
			w.close()
			return nil, fmt.Errorf("open event stream %d: %w", i+1, err)
		}
	}
	w.running.Go(w.read)
	return w, nil
}

func (w *watchers) open(to netip.AddrPort, from [4]byte) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	one := &watcher{fd: fd}
	w.all = append(w.all, one)
	w.byFD[int32(fd)] = one
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: from}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if _, err := syscall.Write(fd, fmt.Appendf(nil, "GET /v1/events HTTP/1.1\r\nHost: %s\r\n\r\n", to)); err != nil {
		return os.NewSyscallError("write", err)
	}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(w.poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}))
}

func (w *watchers) close() {
	w.stopped.Store(true)
	w.running.Wait()
	for _, one := range w.all {
		_ = syscall.Close(one.fd) // nothing is lost: all was read or is not needed
	}
	_ = syscall.Close(w.poll)
}

// expect begins to wait for a SKU's units. The caller then makes the change and calls
// arrived, which returns when the last stream received it.
func (w *watchers) expect(sku string, units int64) (arrived func(context.Context) (time.Time, error)) {
	u := &update{name: fmt.Appendf(nil, `"sku":%q`, sku), units: units, left: len(w.all), done: make(chan struct{})}
	w.awaited.Store(u)
	select {
	case w.expects <- struct{}{}:
	default:
	}
	return func(ctx context.Context) (time.Time, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, fmt.Errorf("after %s, some of %d streams had not received an update", reachTimeout, len(w.all)))
		defer cancel()
		select {
		case <-u.done:
			return u.last, nil
		case err := <-w.failed:
			return time.Time{}, fmt.Errorf("an event stream: %w", err)
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
}

// read reads all streams until close.
func (w *watchers) read() {
	ready := make([]syscall.EpollEvent, 512)
	text := make([]byte, 64<<10)
	for !w.stopped.Load() {
		n, err := syscall.EpollWait(w.poll, ready, 0)
		for i := 0; i < n && err == nil; i++ {
			err = w.take(w.byFD[ready[i].Fd], text)
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			w.failed <- err
			return
		}
		if n == len(ready) {
			continue
		}
		pause := watchersPause
		if u := w.awaited.Load(); u == nil || u.left == 0 {
			pause = watchersRest
		}
		select {
		case <-time.After(pause):
		case <-w.expects:
		}
	}
}

// take reads what has arrived on a stream.
func (w *watchers) take(one *watcher, buffer []byte) error {
	held := copy(buffer, one.rest)
	n, err := syscall.Read(one.fd, buffer[held:])
	if n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	rest := buffer[:held+n]
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			break
		}
		rest = after
		if !one.ok && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("the answer is %s", line)
		}
		one.ok = true
		if u := w.awaited.Load(); u != nil && u != one.seen && u.reachedBy(line) {
			one.seen = u
			if u.left--; u.left == 0 {
				u.last = time.Now()
				close(u.done)
			}
		}
	}
	if len(rest) > maxEvent {
		return errors.New("a line is too long for an event")
	}
	one.rest = append(one.rest[:0], rest...)
	return nil
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
