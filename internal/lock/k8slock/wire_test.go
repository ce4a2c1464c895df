package k8slock

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// silentConnection: the packets of a waiter's connection are lost, as after the failure
// of a router. New connections work.
func silentConnection(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			wire := newWire(t, strings.TrimPrefix(s.URL, "https://"))
			at := s.account
			at.URL = "https://" + wire.addr
			waiting := opened(t, newLocker, s.config(Config{REST: at.config()}))
			here := opened(t, newLocker, s.config(Config{}))
			locktest.MustUnlock(t, locktest.MustLock(t, waiting, "any")) // connects it
			held := locktest.MustLock(t, here, "silent")
			waiter := locktest.LockAside(t, waiting, "silent")
			if held.Contended() != nil {
				sandboxtest.Await(t, held.Contended(), "Contended")
			}
			wire.silence()
			locktest.MustUnlock(t, held)
			locktest.MustUnlock(t, waiter.Granted(t))
		})
	}
}

// wire forwards connections, and can then drop their data.
type wire struct {
	addr string

	mu     sync.Mutex
	silent []*atomic.Bool // of each connection: whether it is silent
	ends   []net.Conn
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: listener.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			silent := new(atomic.Bool)
			w.mu.Lock()
			w.silent = append(w.silent, silent)
			w.ends = append(w.ends, near, far)
			w.mu.Unlock()
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				all.Go(func() {
					defer near.Close()
					defer far.Close()
					_, _ = io.Copy(lossy{way[0], silent}, way[1]) // ends with either side
				})
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.mu.Lock()
		for _, end := range w.ends {
			end.Close()
		}
		w.mu.Unlock()
		all.Wait()
	})
	return w
}

// silence drops all further data of the current connections.
func (w *wire) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, silent := range w.silent {
		silent.Store(true)
	}
}

type lossy struct {
	io.Writer
	silent *atomic.Bool
}

func (l lossy) Write(b []byte) (int, error) {
	if l.silent.Load() {
		return len(b), nil
	}
	return l.Writer.Write(b)
}
