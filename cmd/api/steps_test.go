package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stops is where a replica with --stop-before-steps waits.
func stops(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// stopped returns the next stop, and what it says.
func stopped(t *testing.T, l net.Listener) (conn net.Conn, says string) {
	t.Helper()
	// The order may have failed before the step.
	patience := time.Now().Add(2 * time.Minute)
	if err := l.(*net.TCPListener).SetDeadline(patience); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(patience); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return conn, strings.TrimSpace(line)
}

// An order waits before each step, until its connection ends.
func TestOrderStopsBeforeEachStep(t *testing.T) {
	t.Parallel()
	for strategy, steps := range map[string][]string{
		"none":       {"before-read", "before-write", "before-commit", "before-answer"},
		"process":    {"before-lock", "before-read", "before-write", "before-commit", "before-unlock", "before-answer"},
		"lock-table": {"before-lock", "before-claim", "before-write", "before-unlock", "before-answer"},
		"etcd":       {"before-lock", "before-claim", "before-write", "before-answer"},
	} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			l := stops(t)
			cfg := replicaConfig(newDSN(t), "a", strategy)
			// An order whose lock is lost between two steps begins again.
			cfg.Args = append(cfg.Args, "--stop-before-steps="+l.Addr().String(), "--lock-ttl=20s")
			c := start(t, cfg)
			c.putSKU("lamp", 1)
			answered := make(chan error, 1)
			go func() {
				status, err := c.order("lamp", "ann")
				if err == nil && status != http.StatusCreated {
					err = fmt.Errorf("status %d", status)
				}
				answered <- err
			}()
			for _, want := range steps {
				conn, says := stopped(t, l)
				if says != "a "+want {
					t.Fatalf("it stops at %q, want %q", says, "a "+want)
				}
				select {
				case err := <-answered:
					t.Fatalf("answered before %s: %v", want, err)
				default:
				}
				_ = conn.Close()
			}
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

// An order does not wait for a lab that has died, and not when its replica is told to stop.
func TestStoppedOrderGoesOnWithoutTheLab(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(l net.Listener, conn net.Conn, c *client){
		"the lab dies":            func(l net.Listener, conn net.Conn, _ *client) { _, _ = l.Close(), conn.Close() },
		"the replica has to stop": func(_ net.Listener, _ net.Conn, c *client) { c.terminate() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := stops(t)
			dsn := newDSN(t)
			cfg := replicaConfig(dsn, "a", "none")
			cfg.Args = append(cfg.Args, "--stop-before-steps="+l.Addr().String())
			c := start(t, cfg)
			c.putSKU("lamp", 1)
			answered := make(chan int, 1)
			go func() {
				status, _ := c.order("lamp", "ann")
				answered <- status
			}()
			conn, _ := stopped(t, l)
			end(l, conn, c)
			if status := <-answered; status != http.StatusCreated {
				t.Errorf("the order was answered with %d", status)
			}
			if sold := auditOK(t, dsn).Reserved; sold != 1 {
				t.Errorf("%d units are sold", sold)
			}
		})
	}
}

// The flag is not for users.
func TestStopBeforeStepsIsHidden(t *testing.T) {
	t.Parallel()
	text, err := tool(t, "serve", "--help")
	if err != nil || strings.Contains(text, "stop-before-steps") || !strings.Contains(text, "trace-steps") {
		t.Errorf("%v; the help of serve is\n%s", err, text)
	}
}
