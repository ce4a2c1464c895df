package zombie

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"flashsale/internal/sandbox"
)

const (
	// stepTimeout bounds the wait for an event of a run. A lease is two seconds.
	stepTimeout = 30 * time.Second
	// endTimeout bounds how long a process may take to end. It takes a second or two, and
	// more if a dozen share a core.
	endTimeout = 20 * time.Second
)

type process struct {
	*sandbox.Process
	name   string
	conn   net.Conn
	reader sync.WaitGroup

	mu     sync.Mutex
	events []event
	more   chan struct{} // closed and replaced at each event
}

func spawn(ctx context.Context, argv []string, cfg holderConfig) (*process, error) {
	port, err := sandbox.ReservePort()
	if err != nil {
		return nil, err
	}
	cfg.Addr = port.Addr
	config, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	p := &process{name: cfg.Name, more: make(chan struct{})}
	p.Process, err = sandbox.StartProcess(ctx, sandbox.ProcessConfig{
		Name: "holder " + cfg.Name, Argv: argv, Env: []string{configVar + "=" + string(config)}, Ports: []*sandbox.Port{port},
		Ready: func(ctx context.Context) (err error) {
			p.conn, err = new(net.Dialer).DialContext(ctx, "tcp", port.Addr)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	p.reader.Go(p.read)
	return p, nil
}

func (p *process) read() {
	for lines := bufio.NewScanner(p.conn); lines.Scan(); {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		p.mu.Lock()
		p.events = append(p.events, e)
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *process) send(c command) error { return json.NewEncoder(p.conn).Encode(c) }

// on matches events of a kind and a SKU, answerTo the answer to an order.
func on(kind, sku string) func(event) bool {
	return func(e event) bool { return e.Kind == kind && e.SKU == sku }
}

func answerTo(order int) func(event) bool {
	return func(e event) bool { return e.Kind == answered && e.Order == order }
}

// await waits for the n-th event that matches.
func (p *process) await(ctx context.Context, n int, match func(event) bool) (event, error) {
	timeout := time.NewTimer(stepTimeout)
	defer timeout.Stop()
	for {
		found, more := p.find(match)
		if len(found) >= n {
			return found[n-1], nil
		}
		select {
		case <-more:
		case <-p.Done():
			return event{}, fmt.Errorf("%s exited: %s", p.name, p.LogTail(1))
		case <-timeout.C:
			return event{}, fmt.Errorf("%s made no progress within %s", p.name, stepTimeout)
		case <-ctx.Done():
			return event{}, ctx.Err()
		}
	}
}

// find returns the events so far that match, and a channel that the next event closes.
func (p *process) find(match func(event) bool) ([]event, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []event
	for _, e := range p.events {
		if match(e) {
			found = append(found, e)
		}
	}
	return found, p.more
}

func (p *process) resume() error { return p.Signal(sandbox.SIGCONT) }

// end closes the connection, which ends the process, and kills it if it takes too long.
func (p *process) end() (err error) {
	_ = p.conn.Close()
	_ = p.resume() // it may be paused
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if errors.Is(p.Wait(ctx), context.DeadlineExceeded) {
		err = fmt.Errorf("%s was killed: it had not ended within %s", p.name, endTimeout)
	}
	p.Kill()
	p.reader.Wait()
	return err
}
