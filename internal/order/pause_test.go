package order_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// childEnv makes this test binary a replica in its own process, which stops itself at a
// step of its first order.
const childEnv = "FLASHSALE_TEST_CHILD"

// The steps of wire, in addition to those of the service.
const (
	inCommit   order.Step = "in-commit"   // the batch was sent, and its answer not read
	inRollback order.Step = "in-rollback" // a duplicate key was answered, and ROLLBACK not sent
	// whileSweeping: it has the lock of the Expirer.
	whileSweeping order.Step = "while-sweeping"
)

type childConfig struct {
	DSN   string
	Etcd  []string
	Fence strategy.Fence
	Stop  order.Step
	Order order.Request
	TTL   time.Duration // of its lock
	Alone bool          // neither forwards orders nor receives them
}

// childResult is the outcome of the child's order.
type childResult struct {
	ID       string
	Replayed bool
	Err      string
	// Fenced is the child's count of refusals by the fence.
	Fenced float64
}

func childMain() int {
	var cfg childConfig
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := runChild(cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runChild(cfg childConfig) error {
	// The signal may reach another thread, and later. This one must not continue before
	// the process was stopped and resumed.
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			<-resumed
		}
	}
	o := options{dsn: cfg.DSN, etcd: cfg.Etcd, strategy: "etcd", fence: cfg.Fence, ttl: cfg.TTL, alone: cfg.Alone}
	switch cfg.Stop {
	case inCommit:
		o.dsn = stopAfter("COMMIT", stop).dsn(cfg.DSN)
	case inRollback:
		w := newWire(loseRequest, "ROLLBACK")
		w.before = stop
		o.dsn = w.dsn(cfg.DSN)
	default:
		o.at = func(s order.Step) {
			if s == cfg.Stop {
				stop()
			}
		}
	}
	r, err := newReplica(o)
	if err != nil {
		return err
	}
	if cfg.Stop == whileSweeping {
		return expireAsChild(cfg, r, stop)
	}
	placed, err := r.orders.Place(context.Background(), cfg.Order)
	result := childResult{ID: placed.Order.ID.String(), Replayed: placed.Replayed, Fenced: value(order.MetricsOf(r.orders).Fenced)}
	if err != nil {
		result.Err = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	_ = r.close(ctx) // it reports a lost lease
	return nil
}

// stopAfter stops the process once a packet with the text has been sent.
func stopAfter(text string, stop func()) *wire {
	w := newWire(loseReply, text)
	w.after = stop
	return w
}

// child is a replica in its own process.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
	err bytes.Buffer
}

// startChild starts one and waits until it has stopped itself.
func startChild(t *testing.T, cfg childConfig) *child {
	t.Helper()
	cfg.Etcd = servers.EtcdEndpoints()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	c.cmd.Stderr = &c.err
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it has ended unless the test failed
		_ = c.cmd.Wait()
		if t.Failed() {
			t.Logf("the child wrote:\n%s", c.err.String())
		}
	})
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(c.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		rest, _ := io.ReadAll(c.out)
		t.Fatalf("the child did not stop: status %v, error %v, output %q %q", status, err, rest, c.err.String())
	}
	return c
}

// resume resumes the child and returns the outcome of its order.
func (c *child) resume() childResult {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
	var result childResult
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &result)
	}
	if err != nil {
		c.t.Fatalf("read the child's result: %v", err)
	}
	return result
}

// A seller that stops anywhere on an order's path delays the others for less than its
// lease: the lock is taken from it. When it resumes, its order is made once.
func TestStoppedSellerIsTakenOver(t *testing.T) {
	t.Parallel()
	const atMost = longTTL / 2
	for _, step := range []order.Step{order.BeforeClaim, order.BeforeCommit, inCommit, inRollback} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 10})
			// To stop at the rollback, the child uses a key that is taken.
			first := placeAndLeave(t, dsn, buy("ann", "k", 1))
			service := startReplica(t, options{dsn: dsn, strategy: "etcd"})
			key := "k-of-child"
			if step == inRollback {
				key = "k"
			}
			c := startChild(t, childConfig{DSN: dsn, Fence: strategy.FenceClaim, Stop: step, Order: buy("ann", key, 1), TTL: longTTL})
			stopped := time.Now()
			if _, err := service.Place(t.Context(), buy("ben", "k", 1)); err != nil {
				t.Fatalf("after %s: %v", time.Since(stopped), err)
			}
			if took := time.Since(stopped); took > atMost {
				t.Errorf("the other replica was delayed for %s, want at most %s", took, atMost)
			}
			got := c.resume()
			want := int64(3)
			if step == inRollback {
				want = 2
				if !got.Replayed || got.ID != first.Order.ID.String() {
					t.Errorf("the child answered %+v, want the first order again", got)
				}
			} else if got.Err != "" {
				t.Errorf("the child answered %q, want an order", got.Err)
			}
			if got := audit(t, dsn).Reserved; got != want {
				t.Errorf("%d units reserved, want %d", got, want)
			}
		})
	}
}

// placeAndLeave places an order at a replica and closes that, so that the SKU has no
// seller afterwards.
func placeAndLeave(t *testing.T, dsn string, r order.Request) order.Placed {
	t.Helper()
	gone, err := newReplica(options{dsn: dsn, etcd: servers.EtcdEndpoints(), strategy: "etcd", fence: strategy.FenceClaim})
	if err != nil {
		t.Fatal(err)
	}
	placed, err := gone.orders.Place(t.Context(), r)
	if err != nil {
		t.Error(err)
	}
	if err := gone.close(t.Context()); err != nil {
		t.Error(err)
	}
	return placed
}

// One holder reads the last unit, stops past its lease, and resumes after another one has
// sold that unit. Only the fence prevents that it is sold twice.
func TestStaleHolderIsFenced(t *testing.T) {
	t.Parallel()
	tests := []struct {
		fence    strategy.Fence
		oversold int64
		answer   string
	}{
		{strategy.FenceOff, 1, ""},
		{strategy.FenceClaim, 0, order.ErrSoldOut.Error()},
	}
	for _, test := range tests {
		t.Run(string(test.fence), func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 1})
			service := startReplica(t, options{dsn: dsn, strategy: "etcd", fence: test.fence})
			c := startChild(t, childConfig{DSN: dsn, Fence: test.fence, Stop: order.BeforeCommit, Order: buy("ann", "k", 1), TTL: testTTL})
			if _, err := service.Place(t.Context(), buy("ben", "k", 1)); err != nil {
				t.Fatal(err)
			}
			got := c.resume()
			if got.Err != test.answer {
				t.Errorf("the stale holder answered %q, want %q", got.Err, test.answer)
			}
			if (got.Fenced > 0) != (test.oversold == 0) {
				t.Errorf("the stale holder counted %v refusals by the fence", got.Fenced)
			}
			report, err := stock.Audit(t.Context(), open(t, dsn))
			if err != nil {
				t.Fatal(err)
			}
			if got := report.SKUs[0].Oversold; got != test.oversold || report.OK != (test.oversold == 0) {
				t.Errorf("%d units oversold, want %d; violations %+v", got, test.oversold, report.Violations)
			}
		})
	}
}

func TestOrderOfACallerWhoLeftIsNotMade(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	service := startReplica(t, options{dsn: dsn, strategy: "etcd"})
	// Another replica holds the lock, and is stopped. It cannot be taken over, because its
	// address is unknown.
	c := startChild(t, childConfig{DSN: dsn, Fence: strategy.FenceClaim, Stop: order.BeforeClaim, Order: buy("ann", "k", 1), TTL: longTTL, Alone: true})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := service.Place(ctx, buy("ben", "k", 1)); !errors.Is(err, order.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, order.ErrUnavailable)
	}
	if got := c.resume(); got.Err != "" {
		t.Errorf("the holder answered %q, want an order", got.Err)
	}
	if _, err := service.Place(t.Context(), buy("cat", "k", 1)); err != nil {
		t.Error(err)
	}
	if got := audit(t, dsn).Reserved; got != 2 {
		t.Errorf("%d units reserved, want 2", got)
	}
}
