package locktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

// The environment of a child process: its back-end, its server and its TTL.
const (
	backendVar = "LOCKTEST_BACKEND"
	addressVar = "LOCKTEST_ADDRESS"
	ttlVar     = "LOCKTEST_TTL"
)

// Main is for TestMain. It runs the tests and then checks for leaked goroutines. In a
// child process that the suite has started, it serves that child's Locker instead.
func Main(m *testing.M, backends ...Backend) {
	name := os.Getenv(backendVar)
	if name == "" {
		leaks.Main(m)
	}
	for _, b := range backends {
		if b.Name != name {
			continue
		}
		if err := serve(b, os.Getenv(addressVar)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "unknown back-end %q\n", name)
	os.Exit(1)
}

// These are aliases because net/rpc accepts no unexported named types.
type (
	// call is the argument of a child's methods. Each call has another ID, by which it
	// can be cancelled. A grant has the ID of its Lock.
	call = struct {
		ID, Grant int
		Name      string
		Timeout   time.Duration
	}
	// result is what a child's methods return. Kind is empty without an error.
	result = struct {
		ID         int
		Kind, Text string
		Token      uint64
	}
)

// kinds are the errors that the parent must recognize.
var kinds = map[string]error{
	"held": lock.ErrHeld, "lost": lock.ErrLost, "closed": lock.ErrClosed,
	"deadline": context.DeadlineExceeded, "canceled": context.Canceled,
}

// service is a child's Locker, for net/rpc.
type service struct {
	locker lock.Locker
	ctx    context.Context // ends with the parent's pipe

	mu      sync.Mutex
	grants  map[int]lock.Held
	cancels map[int]context.CancelFunc // nil for a call that was cancelled before it came
}

// serve answers calls until the parent closes the pipe.
func serve(b Backend, address string) error {
	ttl, err := time.ParseDuration(os.Getenv(ttlVar))
	if err != nil {
		return err
	}
	locker, closeClient, err := b.Open(address, ttl)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := rpc.NewServer()
	err = s.RegisterName("child", &service{locker: locker, ctx: ctx, grants: map[int]lock.Held{}, cancels: map[int]context.CancelFunc{}})
	if err != nil {
		cancel()
		return err
	}
	s.ServeConn(pipe{os.Stdin, os.Stdout, cancel})
	ctx, cancel = context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(locker.Close(ctx), closeClient())
}

// pipe connects parent and child.
type pipe struct {
	io.Reader
	io.WriteCloser
	ended func() // called when the reader has ended
}

func (p pipe) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if err != nil {
		p.ended()
	}
	return n, err
}

func (s *service) Lock(c call, r *result) error    { return s.lock(c, r, s.locker.Lock) }
func (s *service) TryLock(c call, r *result) error { return s.lock(c, r, s.locker.TryLock) }

func (s *service) lock(c call, r *result, take func(context.Context, string) (lock.Held, error)) error {
	return s.do(c, r, func(ctx context.Context) error {
		held, err := take(ctx, c.Name)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grants[c.ID] = held
		r.Token = uint64(held.Token())
		return nil
	})
}

func (s *service) Unlock(c call, r *result) error { return s.do(c, r, s.grant(c.Grant).Unlock) }

// Lost returns when a grant is lost, and an error when the parent closes the pipe first.
func (s *service) Lost(c call, _ *result) error { return s.await(s.grant(c.Grant).Lost()) }

// Contended returns when a grant is contended.
func (s *service) Contended(c call, _ *result) error { return s.await(s.grant(c.Grant).Contended()) }

// Cancel cancels the call with that ID.
func (s *service) Cancel(c call, _ *result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.cancels[c.ID]; cancel != nil {
		cancel()
	} else {
		s.cancels[c.ID] = nil
	}
	return nil
}

func (s *service) grant(id int) lock.Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grants[id]
}

func (s *service) await(event <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// do calls f until its timeout or Cancel, and puts its error into r.
func (s *service) do(c call, r *result, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.ctx, c.Timeout)
	defer cancel()
	s.mu.Lock()
	if _, cancelled := s.cancels[c.ID]; cancelled {
		cancel()
	}
	s.cancels[c.ID] = cancel
	s.mu.Unlock()
	r.ID = c.ID
	if err := f(ctx); err != nil {
		r.Kind, r.Text = "other", err.Error()
		for kind, target := range kinds {
			if errors.Is(err, target) {
				r.Kind = kind
			}
		}
	}
	return nil
}

// child is another process and its Locker.
type child struct {
	process *os.Process
	client  *rpc.Client
	ids     atomic.Int64
	// contends: a grant has Contended.
	contends bool
}

// spawn starts a child that ends with the test.
func (s *suite) spawn(t *testing.T) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), self)
	cmd.Env = append(os.Environ(), backendVar+"="+s.Name, addressVar+"="+s.server.Address(), ttlVar+"="+s.ttl.String())
	out, childOut := io.Pipe()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = childOut, os.Stderr, endsWithParent()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	started, done := make(chan error), make(chan struct{})
	go func() {
		// Pdeathsig kills the child when the thread that started it ends, so keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // most children are killed
		}
		_ = childOut.Close()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	c := &child{process: cmd.Process, client: rpc.NewClient(pipe{out, in, func() {}}), contends: s.Capabilities.Contended}
	t.Cleanup(func() {
		_ = c.client.Close() // closes the child's input, which ends it
		c.signal(syscall.SIGCONT)
		select {
		case <-done:
		case <-time.After(patience):
			c.signal(syscall.SIGKILL)
			<-done
			t.Error("a child did not end and was killed")
		}
	})
	return c
}

// signal sends a signal. The child may have ended already.
func (c *child) signal(sig syscall.Signal) { _ = c.process.Signal(sig) }

// call calls a method of the child, and cancels it at the end of ctx.
func (c *child) call(ctx context.Context, method string, args call) (result, error) {
	args.ID, args.Timeout = int(c.ids.Add(1)), patience
	if deadline, ok := ctx.Deadline(); ok {
		args.Timeout = time.Until(deadline)
	}
	r := new(result)
	select {
	case answer := <-c.client.Go("child."+method, args, r, nil).Done:
		switch kind := kinds[r.Kind]; {
		case answer.Error != nil:
			return *r, answer.Error
		case kind != nil:
			return *r, fmt.Errorf("%s: %w", r.Text, kind)
		case r.Kind != "":
			return *r, errors.New(r.Text)
		}
		return *r, nil
	case <-ctx.Done():
		c.client.Go("child.Cancel", args, new(result), nil)
		return result{}, ctx.Err()
	}
}

func (c *child) Lock(ctx context.Context, name string) (lock.Held, error) {
	return c.lock(ctx, "Lock", name)
}

func (c *child) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return c.lock(ctx, "TryLock", name)
}

// Close does nothing. See spawn for how a child ends.
func (c *child) Close(context.Context) error { return nil }

func (c *child) lock(ctx context.Context, method, name string) (lock.Held, error) {
	r, err := c.call(ctx, method, call{Name: name})
	if err != nil {
		return nil, err
	}
	held := &childHeld{child: c, id: r.ID, token: lock.Token(r.Token), lost: c.event("Lost", r.ID)}
	if c.contends {
		held.contended = c.event("Contended", r.ID)
	}
	return held, nil
}

// event returns a channel that is closed when a method of a grant returns without error.
func (c *child) event(method string, grant int) <-chan struct{} {
	event := make(chan struct{})
	done := c.client.Go("child."+method, call{Grant: grant}, new(result), nil).Done
	go func() {
		if (<-done).Error == nil {
			close(event)
		}
	}()
	return event
}

// childHeld is a grant of a child.
type childHeld struct {
	child           *child
	id              int
	token           lock.Token
	lost, contended <-chan struct{}
}

func (h *childHeld) Token() lock.Token          { return h.token }
func (h *childHeld) Lost() <-chan struct{}      { return h.lost }
func (h *childHeld) Contended() <-chan struct{} { return h.contended }

func (h *childHeld) Unlock(ctx context.Context) error {
	_, err := h.child.call(ctx, "Unlock", call{Grant: h.id})
	return err
}
