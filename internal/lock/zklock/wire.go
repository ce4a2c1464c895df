package zklock

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"time"

	"flashsale/internal/sleep"
)

// hosts tells the client library which server to try next. Unlike the library's own,
// it does not resolve the names once at the start, because addresses change. Only the
// library's goroutine calls it.
type hosts struct {
	session *session
	servers []string
	next    int
	tries   int // since the last session
	backoff sleep.Backoff
}

func (h *hosts) Init(servers []string) error {
	h.servers = servers
	return nil
}

func (h *hosts) Len() int { return len(h.servers) }

// Next makes the library drop its pending requests and pause for a second only when
// the session is no longer used. The library's own does so after each round of all
// servers, which is too long for a short session.
func (h *hosts) Next() (server string, dropRequests bool) {
	h.next = (h.next + 1) % len(h.servers)
	h.tries++
	return h.servers[h.next], h.session.ctx.Err() != nil
}

func (h *hosts) Connected() {
	h.tries = 0
	h.backoff.Reset()
}

func (s *session) dial(network, address string, timeout time.Duration) (net.Conn, error) {
	if s.hosts.tries > len(s.hosts.servers) { // each server's first try does not wait
		_ = sleep.For(s.dialing, s.hosts.backoff.Next())
	}
	dialer := net.Dialer{Timeout: min(timeout, s.locker.cfg.TTL/dialShare)}
	conn, err := dialer.DialContext(s.dialing, network, address)
	if err != nil {
		s.setError(err)
		return nil, err
	}
	w := &wire{Conn: conn, session: s, silence: s.locker.cfg.TTL / silenceShare}
	s.mu.Lock()
	s.wire = w
	s.mu.Unlock()
	return w, nil
}

// wire is a connection that reads the session's time-out from the server's first
// message, and that gives up a silent server early enough for the session to survive.
type wire struct {
	net.Conn
	session *session
	silence time.Duration
	// head is the start of the server's first message: its length, the protocol
	// version, and the session's time-out in milliseconds.
	head []byte
}

const wireHead = 12

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if missing := wireHead - len(w.head); missing > 0 {
		w.head = append(w.head, b[:min(n, missing)]...)
	}
	return n, err
}

// Write marks the session as connected when the library, which writes one message at a
// time, has set its watches on a new connection. That message contains the number of
// the last answer. The answer of an earlier request could raise the number, and a
// change before that would be missed.
func (w *wire) Write(b []byte) (int, error) {
	const setWatches = 101
	// A message begins with its length, its number and its type.
	if len(b) >= wireHead && binary.BigEndian.Uint32(b[8:]) == setWatches {
		w.session.mu.Lock()
		w.session.setConnected(true)
		w.session.mu.Unlock()
	}
	return w.Conn.Write(b)
}

// timeout is the session's time-out that the server has granted. It may differ from
// the requested one.
func (w *wire) timeout() time.Duration {
	if len(w.head) < wireHead {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint32(w.head[8:])) * time.Millisecond
}

// SetReadDeadline shortens the library's deadline, which is up to ten time-outs.
func (w *wire) SetReadDeadline(t time.Time) error {
	if latest := time.Now().Add(w.silence); t.After(latest) {
		t = latest
	}
	return w.Conn.SetReadDeadline(t)
}

// libraryLog logs the client library's lines at the debug level. The Locker handles
// what they report.
type libraryLog struct{ logger *slog.Logger }

func (l libraryLog) Printf(format string, args ...any) {
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.logger.Debug("zookeeper client: " + fmt.Sprintf(format, args...))
	}
}
