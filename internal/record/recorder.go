package record

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// waiting is how many steps may wait for the file: those of about 2,000 orders, in
	// 6 MB. A disk that stands still for longer costs steps, and no orders.
	waiting = 1 << 14
	// maxSize bounds a file, to about half a million orders.
	maxSize = 1 << 30
)

// Recorder writes steps to a file, one JSON object a line. It is safe for concurrent use.
type Recorder struct {
	replica string
	began   time.Time
	logger  *slog.Logger
	file    io.WriteCloser
	steps   chan Step
	dropped atomic.Int64 // since the last line
	stop    chan struct{}
	stopped sync.Once
	ended   chan struct{}

	// These belong to the goroutine that writes.
	out  *bufio.Writer
	json *json.Encoder
	left int64 // bytes that the file may still grow by
	all  int64 // dropped steps
	err  error // of the file; no more is written after it
}

// Open appends to a file, or makes it. started describes the process. Close must follow.
func Open(path string, started Step, logger *slog.Logger) (*Recorder, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600) // it names customers
	if err != nil {
		return nil, err
	}
	size, err := endLine(file)
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r := newRecorder(file, started, logger)
	r.left -= size
	go r.run()
	return r, nil
}

// endLine ends the last line, which a killed process may have left unfinished, and
// returns the file's size.
func endLine(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, info.Size()-1); err != nil {
		return 0, err
	}
	if last[0] != '\n' {
		_, err = file.WriteString("\n")
	}
	return info.Size(), err
}

func newRecorder(file io.WriteCloser, started Step, logger *slog.Logger) *Recorder {
	r := &Recorder{
		replica: started.Replica, began: time.Now(), logger: logger, file: file, steps: make(chan Step, waiting),
		stop: make(chan struct{}), ended: make(chan struct{}), out: bufio.NewWriterSize(file, 64<<10), left: maxSize,
	}
	r.json = json.NewEncoder(counter{r})
	r.json.SetEscapeHTML(false)
	started.Kind, started.Wall, started.Mono = Started, r.began.UTC(), 0
	r.steps <- started
	return r
}

// Add records a step that ends now. It never blocks.
func (r *Recorder) Add(s Step) {
	now := time.Now()
	s.Replica, s.Wall, s.Mono = r.replica, now.UTC(), now.Sub(r.began)
	select {
	case r.steps <- s:
	default:
		r.dropped.Add(1)
	}
}

// Close writes what waits, within ctx, and returns the file's first error. Steps that are
// added later are lost.
func (r *Recorder) Close(ctx context.Context) error {
	r.stopped.Do(func() { close(r.stop) })
	select {
	case <-r.ended:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("the last steps were not recorded: %w", ctx.Err())
	}
}

func (r *Recorder) run() {
	defer close(r.ended)
	r.encode(<-r.steps) // Started is the first line, whatever was dropped since
	for running := true; running; {
		select {
		case s := <-r.steps:
			r.write(s)
			continue
		default:
		}
		r.flush() // nothing waits, so whoever follows the file should see it all
		select {
		case s := <-r.steps:
			r.write(s)
		case <-r.stop:
			running = false
		}
	}
	for len(r.steps) > 0 {
		r.write(<-r.steps)
	}
	r.writeDropped()
	r.encode(r.own(Stopped, r.all))
	r.flush()
	if err := r.file.Close(); r.err == nil {
		r.err = err
	}
	if r.all > 0 {
		r.logger.Warn("steps are missing in the file of --trace-steps", "lost", r.all)
	}
}

func (r *Recorder) write(s Step) {
	r.writeDropped()
	if r.err != nil {
		r.dropped.Add(1)
		return
	}
	r.encode(s)
}

// writeDropped says at the right place that steps are missing.
func (r *Recorder) writeDropped() {
	if n := r.dropped.Swap(0); n > 0 {
		r.all += n
		r.encode(r.own(Dropped, n))
	}
}

func (r *Recorder) own(kind Kind, lost int64) Step {
	now := time.Now()
	return Step{Kind: kind, Replica: r.replica, Wall: now.UTC(), Mono: now.Sub(r.began), Lost: lost}
}

func (r *Recorder) encode(s Step) { r.check(r.json.Encode(s)) }

func (r *Recorder) flush() { r.check(r.out.Flush()) }

func (r *Recorder) check(err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("steps are no longer recorded: %w", err)
		r.logger.Error(r.err.Error())
	}
}

var errFull = fmt.Errorf("the file has its maximum size of %d bytes", int64(maxSize))

// counter is the buffered file, up to its bound.
type counter struct{ *Recorder }

func (c counter) Write(line []byte) (int, error) {
	if c.left -= int64(len(line)); c.left < 0 {
		return 0, errFull
	}
	return c.out.Write(line)
}
