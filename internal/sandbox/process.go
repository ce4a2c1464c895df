package sandbox

import (
	"cmp"
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

	"flashsale/internal/sleep"
)

const (
	// startTimeout bounds the wait for a server to start. One second is usual; ten
	// were seen on a cold disk during a build.
	startTimeout = 60 * time.Second
	// stopTimeout bounds the time from SIGTERM to SIGKILL, unless ProcessConfig.StopTimeout
	// does.
	stopTimeout = 10 * time.Second
	// readyAttempt bounds one readiness query: a query to a server that is still
	// starting may hang.
	readyAttempt = 2 * time.Second
	// readyPause and readyPauseMax bound the pause between two queries.
	readyPause    = 5 * time.Millisecond
	readyPauseMax = 100 * time.Millisecond
	// tailLines of its log are quoted when a child fails to start.
	tailLines = 15
	// tailBytes bounds what LogTail reads from the end of a log.
	tailBytes = 64 << 10
)

// ProcessConfig says how to run a child process.
type ProcessConfig struct {
	// Name is for errors: "mariadbd", "replica a".
	Name string
	// Argv is the program and its arguments.
	Argv []string
	// Env is added to this process's environment.
	Env []string
	// Dir is the working directory; "" is that of this process.
	Dir string
	// LogPath is the file that stdout and stderr are appended to. With "" it is an
	// unnamed file, which LogTail reads and the system removes.
	LogPath string
	// Ports are those that the program listens on. They stay reserved, also between
	// two runs, until the Process is garbage.
	Ports []*Port
	// Ready is called until it returns nil; then the process has started. With nil
	// there is no wait.
	Ready func(context.Context) error
	// StopTimeout bounds the time from SIGTERM to SIGKILL; 0 is ten seconds.
	StopTimeout time.Duration
}

// Process is a child process that can be stopped and restarted. It is safe for
// concurrent use.
//
// The child never outlives this process: the kernel kills it when this process
// dies for any reason. It has a process group of its own, so that Ctrl-C at the
// terminal reaches only this process, which then stops its children in order.
type Process struct {
	cfg ProcessConfig
	log *os.File

	lifecycle sync.Mutex // held during Stop, Kill and Restart
	mu        sync.Mutex // guards child
	child     *child
}

// child is one run of a Process.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has ended
	err  error         // the result of Wait, once done is closed
}

// StartProcess starts the program and waits until it is ready, at most a minute. It
// fails at once if the child exits or ctx ends. The error then ends with the last
// lines of the child's log, and no child is left running. ctx bounds only the start:
// the child runs until Stop or Kill.
func StartProcess(ctx context.Context, cfg ProcessConfig) (*Process, error) {
	log, err := openLog(cfg.LogPath)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", cfg.Name, err)
	}
	// The garbage collector closes the log: LogTail works after the child's end.
	p := &Process{cfg: cfg, log: log}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Pid returns the process id of the current or last run.
func (p *Process) Pid() int { return p.current().cmd.Process.Pid }

// Done is closed when the current run has ended. Restart begins a new run.
func (p *Process) Done() <-chan struct{} { return p.current().done }

// Wait waits for the end of the current run. It returns nil for exit status 0, an
// *exec.ExitError for any other end, and ctx's error if ctx ends first.
func (p *Process) Wait(ctx context.Context) error {
	c := p.current()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Signal sends sig. It returns os.ErrProcessDone if the child has ended. SIGSTOP and
// SIGCONT pause and resume the child.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.current().cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.cfg.Name, err)
	}
	return nil
}

// Stop sends SIGTERM, and SIGKILL when ctx ends or after ProcessConfig.StopTimeout. It
// returns once the process has ended, with an error only if it was killed. It does nothing
// if the process has already ended.
func (p *Process) Stop(ctx context.Context) error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	return p.stop(ctx)
}

// Kill sends SIGKILL and waits until the process has ended.
func (p *Process) Kill() {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	p.current().kill()
}

// Restart stops the program if it runs, starts it with the same arguments, and so on
// the same port and data, and waits until it is ready.
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
	read, _ := p.log.ReadAt(text, from) // part of the log is better than nothing
	lines := strings.Split(strings.TrimRight(string(text[:read]), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *Process) current() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		panic(p.cfg.Name + " is shared: it must not be stopped, paused or restarted")
	}
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
			return err // the log does not explain a cancelled start
		}
		return fmt.Errorf("%w; its log ends:\n%s", err, lastLines(p.LogTail(tailLines), tailLines))
	}
	return nil
}

func (p *Process) stop(ctx context.Context) error {
	c := p.current()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.cfg.StopTimeout, stopTimeout))
	defer cancel()
	asked := time.Now()
	c.signal(syscall.SIGTERM)
	c.signal(SIGCONT) // a paused process handles SIGTERM only when it is resumed
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		c.kill()
		return fmt.Errorf("%s was killed: it had not ended %s after SIGTERM", p.cfg.Name, time.Since(asked).Round(time.Millisecond))
	}
}

// awaitReady calls cfg.Ready until it succeeds, the child ends or ctx ends.
func (p *Process) awaitReady(ctx context.Context, c *child) error {
	if p.cfg.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func() { // ends a query to a server that has died
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	any := func(error) bool { return true }
	err := sleep.Backoff{Min: readyPause, Max: readyPauseMax}.Retry(ctx, any, func() error {
		ctx, cancel := context.WithTimeout(ctx, readyAttempt)
		defer cancel()
		return p.cfg.Ready(ctx)
	})
	switch {
	case !c.running(): // even if err is nil: another server may have answered
		return fmt.Errorf("%s ended before it was ready: %w", p.cfg.Name, cmp.Or(c.err, errors.New("exit status 0")))
	case err != nil:
		return fmt.Errorf("%s is not ready: %w", p.cfg.Name, err)
	}
	return nil
}

// spawn starts the program and a goroutine that waits for its end.
//
// The kernel sends Pdeathsig when the thread that forked dies, and Go may end any
// thread. So the goroutine keeps its thread until the child has ended.
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

// signal ignores errors: the child may have ended.
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

// openLog opens path for appending, or an unnamed file for "".
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
