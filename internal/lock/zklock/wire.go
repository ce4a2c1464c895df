package zklock

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"flashsale/internal/sleep"
)

// hosts tells the client library which server to try next. It leaves names
// unresolved: an address that a name had at the start may be another's by now.
type hosts struct {
	session *session

	mu      sync.Mutex
	servers []string
	next    int
	tries   int // since a session was last had
}

func (h *hosts) Init(servers []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.servers = servers
	return nil
}

func (h *hosts) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.servers)
}

// Next has the library drop the requests that wait for a connection, and pause
// for a second, once the session is not used any more. Else it would do so after
// each round of all servers, which a short session does not outlive.
func (h *hosts) Next() (server string, dropRequests bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = (h.next + 1) % len(h.servers)
	h.tries++
	return h.servers[h.next], h.session.ctx.Err() != nil
}

func (h *hosts) Connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tries = 0
}

// pause is what to wait for before the next try: nothing before the first one of
// each server.
func (h *hosts) pause() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	rounds := (h.tries - 1) / len(h.servers)
	if rounds == 0 {
		return 0
	}
	return sleep.Jittered(min(retryPause<<min(rounds-1, 10), dialPauseMax))
}

// dial makes a connection for the client library.
func (s *session) dial(network, address string, timeout time.Duration) (net.Conn, error) {
	_ = sleep.For(s.dialing, s.hosts.pause())
	dialer := net.Dialer{Timeout: min(timeout, s.locker.cfg.TTL/dialShare)}
	conn, err := dialer.DialContext(s.dialing, network, address)
	if err != nil {
		s.note(err)
		return nil, err
	}
	w := &wire{Conn: conn, session: s, patience: s.locker.cfg.TTL / silenceShare}
	s.mu.Lock()
	s.wire = w
	s.mu.Unlock()
	return w, nil
}

// wire is a connection that knows what the server has granted, and does not wait
// for a silent server longer than a session can afford.
type wire struct {
	net.Conn
	session  *session
	patience time.Duration
	// head is the beginning of what the server sends: the length of a message,
	// the protocol's version, and the session's time-out in milliseconds.
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

// Write sees the library, which writes a message at a time, ask for its watches on
// a new connection, for what has changed since the last answer that it has had.
// It takes that number while answers may come in already. No request is made
// before: with the number of its answer, a change before that would be missed.
func (w *wire) Write(b []byte) (int, error) {
	const setWatches = 101
	// The length of the message, its number, and what it asks for.
	if len(b) >= wireHead && binary.BigEndian.Uint32(b[8:]) == setWatches {
		w.session.mu.Lock()
		w.session.setUp(true)
		w.session.mu.Unlock()
	}
	return w.Conn.Write(b)
}

// timeout is the session's, as the server has it, which may differ from what was
// asked for.
func (w *wire) timeout() time.Duration {
	if len(w.head) < wireHead {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint32(w.head[8:])) * time.Millisecond
}

// SetReadDeadline shortens the library's, of up to ten sessions.
func (w *wire) SetReadDeadline(t time.Time) error {
	if latest := time.Now().Add(w.patience); t.After(latest) {
		t = latest
	}
	return w.Conn.SetReadDeadline(t)
}

// libraryLog passes the client library's lines on: they tell of what the Locker
// handles, and reports where it cannot.
type libraryLog struct{ logger *slog.Logger }

func (l libraryLog) Printf(format string, args ...any) {
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.logger.Debug("zookeeper client: " + fmt.Sprintf(format, args...))
	}
}
