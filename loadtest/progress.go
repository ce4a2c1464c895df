package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
)

// meter shows the progress of each run: a bar in a terminal, else one line at the start
// of the run.
type meter struct {
	w    io.Writer
	bars progress.Writer // nil if w is not a terminal
	done chan struct{}   // closed after the last drawing
}

func newMeter(w io.Writer) *meter {
	m := &meter{w: w}
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
	fmt.Fprintf(m.w, format+"\n", args...)
}

// task starts a bar. step counts an answer.
func (m *meter) task(label string, total int) (step func(), end func()) {
	if m.bars == nil {
		m.say("%s", label)
		return func() {}, func() {}
	}
	tracker := &progress.Tracker{Message: label, Total: int64(total)}
	m.bars.AppendTracker(tracker)
	return func() { tracker.Increment(1) }, tracker.MarkAsDone
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
