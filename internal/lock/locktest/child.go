package locktest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flashsale/internal/lock"
)

// The environment of a child: which back-end it opens, where, and whether with
// OpenLong, if that is not empty.
const (
	backendVar = "LOCKTEST_BACKEND"
	addressVar = "LOCKTEST_ADDRESS"
	longVar    = "LOCKTEST_LONG"
)

// Main is for TestMain. It runs the tests and then looks for goroutines that
// they left behind. In a process that the suite has started, it is that process.
func Main(m *testing.M, backends ...Backend) {
	name := os.Getenv(backendVar)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	for _, b := range backends {
		if b.Name != name {
			continue
		}
		if os.Getenv(longVar) != "" {
			b.Open = b.OpenLong
		}
		if err := serve(b, os.Getenv(addressVar), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "no back-end %q\n", name)
	os.Exit(1)
}

// request is one call of a child's Locker. Each is answered once, by its id.
type request struct {
	ID      int           `json:"id"`
	Op      string        `json:"op"` // lock, trylock, cancel, unlock, contend
	Name    string        `json:"name,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Of      int           `json:"of,omitempty"` // the request to cancel, or whose grant to unlock
	Contend *contention   `json:"contend,omitempty"`
}

// response answers a request, or tells of the grant that it got.
type response struct {
	ID     int    `json:"id"`
	Kind   string `json:"kind"` // "", or the kind of error; or lost, wanted: of grant ID
	Text   string `json:"text,omitempty"`
	Token  uint64 `json:"token,omitempty"`
	Tells  bool   `json:"tells,omitempty"` // the grant has a Wanted
	Notice bool   `json:"notice,omitempty"`
}

// kinds are the errors that keep their identity on the way to the parent.
var kinds = map[string]error{
	"held": lock.ErrHeld, "lost": lock.ErrLost, "closed": lock.ErrClosed,
	"deadline": context.DeadlineExceeded, "canceled": context.Canceled,
}

// server is the child's side.
type server struct {
	locker lock.Locker
	out    *json.Encoder
	outMu  sync.Mutex

	mu      sync.Mutex
	grants  map[int]lock.Held
	cancels map[int]context.CancelFunc
}

// serve answers requests until its parent closes the pipe.
func serve(b Backend, address string, in io.Reader, out io.Writer) error {
	locker, closeClient, err := b.Open(address)
	if err != nil {
		return err
	}
	s := &server{
		locker: locker, out: json.NewEncoder(out),
		grants: map[int]lock.Held{}, cancels: map[int]context.CancelFunc{},
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		go s.answer(r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(locker.Close(ctx), closeClient())
}

func (s *server) answer(r request) {
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	s.mu.Lock()
	s.cancels[r.ID] = cancel
	held := s.grants[r.Of]
	cancelOf := s.cancels[r.Of]
	s.mu.Unlock()

	resp := response{ID: r.ID}
	var err error
	switch r.Op {
	case "lock":
		held, err = s.locker.Lock(ctx, r.Name)
	case "trylock":
		held, err = s.locker.TryLock(ctx, r.Name)
	case "unlock":
		err = held.Unlock(ctx)
	case "contend":
		err = r.Contend.run(ctx, s.locker)
	case "cancel":
		cancelOf()
		return
	}
	if err != nil {
		resp.Kind, resp.Text = "other", err.Error()
		for kind, known := range kinds {
			if errors.Is(err, known) {
				resp.Kind = kind
			}
		}
	} else if r.Op == "lock" || r.Op == "trylock" {
		s.mu.Lock()
		s.grants[r.ID] = held
		s.mu.Unlock()
		resp.Token, resp.Tells = uint64(held.Token()), held.Wanted() != nil
		defer s.tell(r.ID, held)
	}
	s.send(resp)
}

// tell passes on what happens to a grant.
func (s *server) tell(id int, held lock.Held) {
	lost, wanted := held.Lost(), held.Wanted()
	for range 2 {
		select {
		case <-lost:
			s.send(response{ID: id, Kind: "lost", Notice: true})
			lost = nil
		case <-wanted:
			s.send(response{ID: id, Kind: "wanted", Notice: true})
			wanted = nil
		}
	}
}

func (s *server) send(r response) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	_ = s.out.Encode(r) // a parent that has gone needs no answer
}

// child is another process, and a lock.Locker: that process's.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser

	mu      sync.Mutex
	ids     int
	answers map[int]chan response
	grants  map[int]*childHeld
}

// spawn starts a child that ends with the test.
func (s *suite) spawn(t *testing.T) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.CommandContext(context.Background(), self), answers: map[int]chan response{}, grants: map[int]*childHeld{}}
	c.cmd.Env = append(os.Environ(), backendVar+"="+s.Name, addressVar+"="+s.server.Address())
	if s.long {
		c.cmd.Env = append(c.cmd.Env, longVar+"=true")
	}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = endsWithParent()
	c.in, err = c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started, done := make(chan error), make(chan struct{})
	go func() {
		// Pdeathsig fires when the thread that forked ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r response
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Errorf("a child says %q: %v", lines.Text(), err)
				break
			}
			c.take(r)
		}
		_ = c.cmd.Wait() // killed, most of the time
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		c.signal(syscall.SIGCONT)
		select {
		case <-done:
		case <-time.After(patience):
			c.signal(syscall.SIGKILL)
			<-done
			t.Error("a child had to be killed")
		}
	})
	return c
}

// signal sends a signal; that the child may have ended already is as well.
func (c *child) signal(sig syscall.Signal) { _ = c.cmd.Process.Signal(sig) }

// call sends a request and waits for its answer.
func (c *child) call(ctx context.Context, r request) (response, error) {
	answer := make(chan response, 1)
	c.mu.Lock()
	c.ids++
	r.ID = c.ids
	c.answers[r.ID] = answer
	if r.Op == "lock" || r.Op == "trylock" {
		c.grants[r.ID] = &childHeld{child: c, id: r.ID, lost: make(chan struct{}), wanted: make(chan struct{})}
	}
	c.mu.Unlock()
	r.Timeout = patience
	if deadline, ok := ctx.Deadline(); ok {
		r.Timeout = time.Until(deadline)
	}
	if err := c.send(r); err != nil {
		return response{}, err
	}
	select {
	case resp := <-answer:
		return resp, resp.err()
	case <-ctx.Done():
		if err := c.send(request{Op: "cancel", Of: r.ID}); err != nil {
			return response{}, err
		}
		return response{}, ctx.Err()
	}
}

func (c *child) send(r request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.in.Write(append(line, '\n'))
	return err
}

func (c *child) take(r response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch grant := c.grants[r.ID]; {
	case !r.Notice:
		c.answers[r.ID] <- r
	case r.Kind == "lost":
		close(grant.lost)
	case r.Kind == "wanted":
		close(grant.wanted)
	}
}

func (r response) err() error {
	if r.Kind == "" {
		return nil
	}
	if known := kinds[r.Kind]; known != nil {
		return fmt.Errorf("%s: %w", r.Text, known)
	}
	return errors.New(r.Text)
}

func (c *child) Lock(ctx context.Context, name string) (lock.Held, error) {
	return c.lock(ctx, "lock", name)
}

func (c *child) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return c.lock(ctx, "trylock", name)
}

// Close is what ends a child: see spawn.
func (c *child) Close(context.Context) error { return nil }

func (c *child) lock(ctx context.Context, op, name string) (lock.Held, error) {
	resp, err := c.call(ctx, request{Op: op, Name: name})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	grant := c.grants[resp.ID]
	grant.token = lock.Token(resp.Token)
	grant.tells = resp.Tells
	return grant, nil
}

// childHeld is a grant that a child has.
type childHeld struct {
	child        *child
	id           int
	token        lock.Token
	tells        bool
	lost, wanted chan struct{}
}

func (h *childHeld) Token() lock.Token     { return h.token }
func (h *childHeld) Lost() <-chan struct{} { return h.lost }

func (h *childHeld) Wanted() <-chan struct{} {
	if !h.tells {
		return nil
	}
	return h.wanted
}

func (h *childHeld) Unlock(ctx context.Context) error {
	_, err := h.child.call(ctx, request{Op: "unlock", Of: h.id})
	return err
}
