package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"

	"flashsale/internal/sleep"
	"flashsale/loadtest/proof"
)

// meter shows the progress of each run: a bar in a terminal, else a line at its start and
// after each interval.
type meter struct {
	mu    sync.Mutex // for w
	w     io.Writer
	every time.Duration
	bars  progress.Writer // nil if w is not a terminal
	done  chan struct{}   // closed after the last drawing
}

func newMeter(w io.Writer) *meter {
	m := &meter{w: w, every: 10 * time.Second}
	f, ok := w.(*os.File)
	if !ok {
		return m
	}
	if file, err := f.Stat(); err != nil || file.Mode()&os.ModeCharDevice == 0 {
		return m
	}
	m.bars = progress.NewWriter()
	m.bars.SetOutputWriter(w)
	m.bars.SetUpdateFrequency(100 * time.Millisecond)
	m.bars.SetTrackerLength(30)
	m.bars.SetMessageLength(44)
	m.bars.SetStyle(progress.StyleBlocks)
	m.bars.Style().Options.TimeInProgressPrecision = 100 * time.Millisecond
	m.bars.Style().Options.TimeDonePrecision = 100 * time.Millisecond
	m.done = make(chan struct{})
	go func() {
		m.bars.Render()
		close(m.done)
	}()
	return m
}

// say writes a line above the bars.
func (m *meter) say(format string, args ...any) {
	if m.bars != nil {
		m.bars.Log(format, args...)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(m.w, format+"\n", args...)
}

// task starts a bar. step counts an answer.
func (m *meter) task(label string, total int) (step func(), end func()) {
	if m.bars == nil {
		m.say("%s", label)
		return m.lines(label, total)
	}
	tracker := &progress.Tracker{Message: label, Total: int64(total)}
	m.bars.AppendTracker(tracker)
	return func() { tracker.Increment(1) }, tracker.MarkAsDone
}

// lines writes a line after each interval until end is called.
func (m *meter) lines(label string, total int) (step func(), end func()) {
	var steps atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	began := time.Now()
	writer.Go(func() {
		for sleep.For(ctx, m.every) == nil {
			m.say("%s: %s of %s after %s", label, proof.Comma(steps.Load()), proof.Comma(total), time.Since(began).Round(time.Second))
		}
	})
	return func() { steps.Add(1) }, func() {
		cancel()
		writer.Wait()
	}
}

// stop draws the last state. Nothing is written after it returns.
func (m *meter) stop() {
	if m.bars == nil {
		return
	}
	m.bars.Stop()
	<-m.done
	m.bars = nil
}
