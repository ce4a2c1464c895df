package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestRefusedConnectionMeansADeadProcess(t *testing.T) {
	t.Parallel()
	l := listen(t)
	l.Close()
	told := newObserved()
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer = told }))
	p := Peer{l.Addr().String(), "seller"}
	for range 3 { // each order may be of another SKU, which has to be taken over, too
		order := send(t, ls, p, 1)
		if got := until(t, "dead", told); got != "dead [{sku 7}]" {
			t.Errorf("the observer received %q", got)
		}
		order.unsent()
	}
}

// until waits until the observer receives a report with this prefix, and returns it.
func until(t *testing.T, prefix string, told observed) string {
	t.Helper()
	for {
		if got := next(t, prefix, told); strings.HasPrefix(got, prefix) {
			return got
		}
	}
}

func TestAnotherProcessAtTheAddressMeansADeadProcess(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("another"), in)
	told := newObserved()
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer = told }))
	order := send(t, ls, Peer{s.peer.Addr, "seller"}, 1)
	if got := until(t, "dead", told); got != "dead [{sku 7}]" {
		t.Errorf("the observer received %q", got)
	}
	order.unsent()
	if len(in) != 0 {
		t.Error("the other process received the order")
	}
	send(t, ls, s.peer, 2) // is no stranger
	next(t, "the order", in)
}

// dying is the listener of a process that is being killed. It serves the first
// connection, accepts and closes the next two, and then refuses connections.
type dying struct {
	net.Listener
	first   chan net.Conn
	isFirst bool // is next
	more    int
	closed  chan struct{}
}

func (d *dying) Close() error {
	close(d.closed)
	return d.Listener.Close()
}

func (d *dying) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			<-d.closed // by the server, which would take it for a fault
			return nil, err
		}
		if d.isFirst {
			d.isFirst = false
			d.first <- conn
			return conn, nil
		}
		conn.Close()
		if d.more--; d.more == 0 {
			d.Listener.Close()
		}
	}
}

func TestProcessThatClosesItsListenerLastIsDead(t *testing.T) {
	t.Parallel()
	in, told := newInbox(), newObserved()
	l := &dying{listen(t), make(chan net.Conn, 1), true, 2, make(chan struct{})}
	s := serveOn(t, l, config("seller"), in)
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer = told }))
	order := send(t, ls, s.peer, 1)
	next(t, "the order", in)
	(<-l.first).Close()
	order.broken()
	if got := until(t, "dead", told); got != "dead [{sku 7}]" {
		t.Errorf("the observer received %q", got)
	}
}

// childProcess is the environment variable that makes this program a seller with the
// variable's value as its process. It never answers an order.
const childProcess = "FORWARD_TEST_PROCESS"

// runChild sells until standard input ends. It prints its address, and a line for
// each message with orders.
func runChild(process string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	s := NewServer(config(process), receiverFunc(func(*Source, []*Order) { fmt.Println("received") }))
	go func() { _ = s.Serve(l) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
	peer  Peer
}

func startChild(t *testing.T) *child {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.CommandContext(t.Context(), program)}
	c.cmd.Env = append(os.Environ(), childProcess+"=seller")
	c.cmd.Stderr = os.Stderr
	if _, err := c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // it was killed
	})
	c.lines = bufio.NewScanner(out)
	c.peer = Peer{c.line(), "seller"}
	return c
}

func (c *child) line() string {
	c.t.Helper()
	if !c.lines.Scan() {
		c.t.Fatalf("the child has ended: %v", c.lines.Err())
	}
	return c.lines.Text()
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

func TestKilledSellerIsDeadAndPausedSellerIsSilent(t *testing.T) {
	t.Parallel()
	c := startChild(t)
	told := newObserved()
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer = told }))
	order := send(t, ls, c.peer, 1)
	c.line()

	c.signal(syscall.SIGSTOP)
	until(t, "silent 5 [{sku 7}]", told)
	c.signal(syscall.SIGCONT)
	until(t, "revived", told)

	c.signal(syscall.SIGKILL)
	order.broken()
	if got := until(t, "dead", told); got != "dead [{sku 7}]" {
		t.Errorf("the observer received %q", got)
	}
}
