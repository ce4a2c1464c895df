package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds the wait for a server of ours. A second is usual; a
	// cold disk shared with a build was seen to take ten times that.
	startTimeout = 60 * time.Second
	// stopTimeout is what a child has to end by itself after SIGTERM.
	stopTimeout = 10 * time.Second
	// readyAttempt bounds one readiness query, so that one that hangs on a
	// half-started server is asked again.
	readyAttempt = 2 * time.Second
	// readyPause and readyPauseMax are the waits between two such queries.
	readyPause    = 5 * time.Millisecond
	readyPauseMax = 100 * time.Millisecond
	// tailLines of its log are quoted when a child fails to start.
	tailLines = 15
	// tailBytes bounds what LogTail reads from the end of a log.
	tailBytes = 64 << 10
)

// ProcessConfig says how to run a program as a child.
type ProcessConfig struct {
	// Name stands in errors: "mariadbd", "replica a".
	Name string
	// Argv is the program and its arguments.
	Argv []string
	// Env is added to this process's own environment.
	Env []string
	// Dir is the working directory; "" is this process's own.
	Dir string
	// LogPath is the file that stdout and stderr are appended to. With "" they
	// go to a file without a name, which LogTail reads and nobody has to remove.
	LogPath string
	// Ports are those that the program listens on. They stay reserved, also between
	// two runs, until nobody refers to the Process any more.
	Ports []*Port
	// Ready is asked again and again until it returns nil; only then has the
	// process started. A nil Ready is no wait.
	Ready func(context.Context) error
}

// Process is a child program, which can be stopped and started again. Its
// methods may be called at the same time.
//
// The child never outlives this process: the kernel kills it when this process
// dies, whatever it dies of. It stands in a process group of its own, so that a
// Ctrl-C at the terminal reaches only this process, which then stops its
// children in order.
type Process struct {
	cfg ProcessConfig
	log *os.File

	lifecycle sync.Mutex // held by Stop, Kill and Restart for as long as they take
	mu        sync.Mutex // guards child
	child     *child
}

// child is one run of a Process.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has been waited for
	err  error         // what Wait said; read after done
}

// StartProcess starts the program and waits until it is ready. It gives up at
// once when the child exits, else at ctx's end or after a minute; the error then
// ends with the last lines of the child's log, and no child is left running.
// ctx bounds the start alone: the child runs until Stop or Kill.
func StartProcess(ctx context.Context, cfg ProcessConfig) (*Process, error) {
	log, err := openLog(cfg.LogPath)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", cfg.Name, err)
	}
	// The log is closed with the last reference to it: LogTail stays useful
	// after the child's end.
	p := &Process{cfg: cfg, log: log}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Pid is the process id of the current run, or of the last.
func (p *Process) Pid() int { return p.current().cmd.Process.Pid }

// Done is closed when the current run has ended. Restart makes a new one.
func (p *Process) Done() <-chan struct{} { return p.current().done }

// Wait waits for the end of the current run. It returns nil for exit status 0,
// an *exec.ExitError for any other end, and ctx's error at ctx's end.
func (p *Process) Wait(ctx context.Context) error {
	c := p.current()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Signal sends sig; os.ErrProcessDone says that there is nobody to get it.
// SIGSTOP and SIGCONT pause and resume the child.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.current().cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.cfg.Name, err)
	}
	return nil
}

// Stop ends the process: SIGTERM, and SIGKILL at ctx's end or ten seconds later.
// It returns when the process is gone, with an error only if it had to be
// killed. Stopping what has ended already is no error.
func (p *Process) Stop(ctx context.Context) error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	return p.stop(ctx)
}

// Kill ends the process as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	p.current().kill()
}

// Restart starts the program again, with the same arguments and thus on the
// same port and data, and waits until it is ready. One that runs is stopped.
func (p *Process) Restart(ctx context.Context) error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	if err := p.stop(ctx); err != nil {
		return err
	}
	return p.start(ctx)
}

// LogTail returns at most the last n lines that the child has written.
func (p *Process) LogTail(n int) string {
	info, err := p.log.Stat()
	if err != nil {
		return ""
	}
	from := max(0, info.Size()-tailBytes)
	text := make([]byte, info.Size()-from)
	read, _ := p.log.ReadAt(text, from) // a short read still shows something
	lines := strings.Split(strings.TrimRight(string(text[:read]), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *Process) current() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child
}

func (p *Process) start(ctx context.Context) error {
	c, err := spawn(p.cfg, p.log)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.cfg.Name, err)
	}
	p.mu.Lock()
	p.child = c
	p.mu.Unlock()
	if err := p.awaitReady(ctx, c); err != nil {
		c.kill()
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // nobody waits for it any more: its log explains nothing
		}
		return fmt.Errorf("%w; its log ends:\n%s", err, indent(p.LogTail(tailLines)))
	}
	return nil
}

func (p *Process) stop(ctx context.Context) error {
	c := p.current()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	asked := time.Now()
	c.signal(syscall.SIGTERM)
	c.signal(SIGCONT) // a paused process would not see the other
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		c.kill()
		return fmt.Errorf("%s had not ended %s after SIGTERM, and was killed", p.cfg.Name, time.Since(asked).Round(time.Millisecond))
	}
}

// awaitReady asks cfg.Ready until it answers, the child ends or time is up.
func (p *Process) awaitReady(ctx context.Context, c *child) error {
	if p.cfg.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func() { // a query must not go on waiting for a server that has died
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for pause := readyPause; ; pause = min(2*pause, readyPauseMax) {
		attempt, done := context.WithTimeout(ctx, readyAttempt)
		err := p.cfg.Ready(attempt)
		done()
		select {
		case <-c.done: // also if another server answered in its stead
			return fmt.Errorf("%s ended before it was ready: %w", p.cfg.Name, c.exit())
		default:
			if err == nil {
				return nil
			}
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			if c.running() {
				return fmt.Errorf("%s is not ready (%w): %w", p.cfg.Name, context.Cause(ctx), err)
			}
		case <-time.After(pause):
		}
	}
}

// spawn starts the program, and a goroutine that waits for its end.
//
// The kernel sends Pdeathsig when the thread that forked dies, not when its
// process does, and Go ends threads as it likes. The goroutine therefore keeps
// the thread that it forked on for as long as the child lives.
func spawn(cfg ProcessConfig, log *os.File) (*child, error) {
	cmd := exec.Command(cfg.Argv[0], cfg.Argv[1:]...)
	cmd.Env = append(os.Environ(), cfg.Env...)
	cmd.Dir = cfg.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ChildAttr()
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// signal is for a child that may just have ended: then there is nothing to do.
func (c *child) signal(sig os.Signal) { _ = c.cmd.Process.Signal(sig) }

func (c *child) kill() {
	c.signal(syscall.SIGKILL)
	<-c.done
}

func (c *child) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// exit is how a child that should have gone on came to its end.
func (c *child) exit() error {
	if c.err == nil {
		return errors.New("exit status 0")
	}
	return c.err
}

// openLog opens path for appending, or a file without a name for "".
func openLog(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_APPEND | os.O_CREATE
	if path != "" {
		return os.OpenFile(path, flags, 0o600)
	}
	f, err := os.CreateTemp("", folderPrefix+"log-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	return os.OpenFile(f.Name(), flags, 0o600) // CreateTemp does not append
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(text, "\n", "\n    ")
}
