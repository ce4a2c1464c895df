package zombie

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
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"flashsale/internal/sandbox"
)

const (
	// stepTimeout bounds the wait for any event of a run. A lease is two seconds.
	stepTimeout = 30 * time.Second
	// endTimeout is what a process has to end by itself: it takes a second or two,
	// and more where a dozen share a core.
	endTimeout = 20 * time.Second
	// stoppedPoll is between two looks whether a process stands still: the kernel
	// tells that to its parent only, together with its end.
	stoppedPoll = time.Millisecond
)

// process is a holder, as a run sees it.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	log  bytes.Buffer // its stderr; read after done
	done chan struct{}

	mu     sync.Mutex
	events []event
	more   chan struct{} // closed, and made anew, with each event
}

// spawn starts a holder and waits until it takes commands.
func spawn(ctx context.Context, argv []string, cfg holderConfig) (*process, error) {
	p := &process{name: cfg.Name, cmd: exec.CommandContext(context.Background(), argv[0], argv[1:]...), done: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = sandbox.ChildAttr()
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// The kernel kills the child when the thread that forked ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				p.take(e)
			}
		}
		_ = p.cmd.Wait() // what went wrong stands in its log
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if err := p.send(cfg); err != nil {
		return nil, errors.Join(err, p.end())
	}
	if _, err := p.await(ctx, func(e event) bool { return e.Kind == ready }); err != nil {
		return nil, errors.Join(err, p.end())
	}
	return p, nil
}

func (p *process) take(e event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
	close(p.more)
	p.more = make(chan struct{})
}

// send sends a config or a command.
func (p *process) send(message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = p.in.Write(append(line, '\n'))
	return err
}

// await waits for the first event, of all, that is like that.
func (p *process) await(ctx context.Context, like func(event) bool) (event, error) {
	return p.awaitNth(ctx, 1, like)
}

// awaitNth waits for the n-th such event.
func (p *process) awaitNth(ctx context.Context, n int, like func(event) bool) (event, error) {
	timeout := time.NewTimer(stepTimeout)
	defer timeout.Stop()
	for {
		found, more := p.find(like)
		if len(found) >= n {
			return found[n-1], nil
		}
		select {
		case <-more:
		case <-p.done:
			return event{}, fmt.Errorf("%s ended: %s", p.name, strings.TrimSpace(p.log.String()))
		case <-timeout.C:
			return event{}, fmt.Errorf("%s did not get on within %s", p.name, stepTimeout)
		case <-ctx.Done():
			return event{}, ctx.Err()
		}
	}
}

// find are the events so far that are like that, and what is closed with the next.
func (p *process) find(like func(event) bool) ([]event, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []event
	for _, e := range p.events {
		if like(e) {
			found = append(found, e)
		}
	}
	return found, p.more
}

// stop makes the process stand still, and returns once all of its threads do.
func (p *process) stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(sandbox.SIGSTOP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for !p.stands() {
		select {
		case <-time.After(stoppedPoll):
		case <-ctx.Done():
			return fmt.Errorf("%s does not stop: %w", p.name, ctx.Err())
		}
	}
	return nil
}

// stands reports whether all threads are stopped.
func (p *process) stands() bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		// pid (name) state ...: the name may hold anything.
		if _, rest, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return len(files) > 0
}

func (p *process) resume() error { return p.cmd.Process.Signal(sandbox.SIGCONT) }

// end lets the process end, and kills it if it does not.
func (p *process) end() error {
	_ = p.in.Close() // it may have ended
	_ = p.resume()
	select {
	case <-p.done:
		return nil
	case <-time.After(endTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s had to be killed", p.name)
	}
}
