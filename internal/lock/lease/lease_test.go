package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"flashsale/internal/lock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTTL = 3 * time.Second

// memory is a Store in this process. The back-ends test their real servers. The
// tests of this package run on synctest's clock, which no server follows.
type memory struct {
	mu     sync.Mutex
	owners map[string]string
	ends   map[string]time.Time
	token  lock.Token
	tries  int

	hooks hooks
}

// hooks run before or after calls of a Store, if set. Their errors fail the call.
type hooks struct {
	beforeTry, afterTry, beforeRenew, beforeRelease func(ctx context.Context) error
}

func newMemory() *memory { return &memory{owners: map[string]string{}, ends: map[string]time.Time{}} }

func (m *memory) hook(h hooks) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hooks = h
}

// pass runs a hook.
func (m *memory) pass(ctx context.Context, which func(hooks) func(context.Context) error) error {
	m.mu.Lock()
	f := which(m.hooks)
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (m *memory) owner(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !time.Now().Before(m.ends[name]) {
		delete(m.owners, name)
	}
	return m.owners[name]
}

func (m *memory) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tries
}

func (m *memory) end(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.owners, name)
}

func (m *memory) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	m.mu.Lock()
	m.tries++
	m.mu.Unlock()
	if err := m.pass(ctx, func(h hooks) func(context.Context) error { return h.beforeTry }); err != nil {
		return 0, err
	}
	if holder := m.owner(name); holder != "" {
		return 0, &lock.HeldError{Holder: ParseOwner(holder).Holder}
	}
	m.mu.Lock()
	m.owners[name], m.ends[name] = owner, time.Now().Add(testTTL)
	m.token++
	token := m.token
	m.mu.Unlock()
	return token, m.pass(ctx, func(h hooks) func(context.Context) error { return h.afterTry })
}

func (m *memory) Renew(ctx context.Context, name, owner string) error {
	if err := m.pass(ctx, func(h hooks) func(context.Context) error { return h.beforeRenew }); err != nil {
		return err
	}
	if m.owner(name) != owner {
		return lock.ErrLost
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends[name] = time.Now().Add(testTTL)
	return nil
}

func (m *memory) Release(ctx context.Context, name, owner string) error {
	if err := m.pass(ctx, func(h hooks) func(context.Context) error { return h.beforeRelease }); err != nil {
		return err
	}
	if m.owner(name) != owner {
		return lock.ErrLost
	}
	m.end(name)
	return nil
}

var errUnreachable = errors.New("server 192.0.2.1 is unreachable")

func unreachable(context.Context) error { return errUnreachable }

// hang is a call of a server that does not answer.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// newLocker makes a Locker on m. The test must close it, because a synctest bubble
// must end without goroutines.
func newLocker(t *testing.T, m *memory, with func(*Config)) *Locker {
	t.Helper()
	cfg := Config{Store: m, TTL: testTTL, Owner: "r@h:1"}
	if with != nil {
		with(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustClose(t *testing.T, l *Locker) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func happened(event <-chan struct{}) bool {
	select {
	case <-event:
		return true
	default:
		return false
	}
}

// withLocker calls test with a Locker on a memory, and closes the Locker afterwards.
func withLocker(t *testing.T, test func(t *testing.T, m *memory, l *Locker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := newLocker(t, m, nil)
		test(t, m, l)
		mustClose(t, l)
	})
}
