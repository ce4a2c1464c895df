// Package steps reads what replicas with --trace-steps recorded, and finds the steps of
// the orders that sold the same unit. It invents no step. It knows files of one host,
// because it compares the clocks of their replicas.
package steps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"flashsale/internal/record"
)

// File is the file of one replica, which may still be written.
type File struct {
	// Lost is the number of steps that are known to be missing. Those that a killed replica
	// had not written yet are not counted.
	Lost int64

	file    *os.File
	rest    []byte    // of a line that was not complete
	started time.Time // of the process whose steps come next
}

// Open opens the file of a replica. Close must follow.
func Open(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &File{file: file}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Read returns the steps since the last call, in the order in which they ended. It waits
// for none: to follow a running replica, call it again. The Wall of each step is that of
// Started plus Mono, so that a clock that is set meanwhile changes no order.
func (f *File) Read() ([]record.Step, error) {
	text, err := io.ReadAll(f.file)
	if err != nil {
		return nil, err
	}
	text = append(f.rest, text...)
	end := bytes.LastIndexByte(text, '\n') + 1
	f.rest = bytes.Clone(text[end:])
	var all []record.Step
	for line := range bytes.Lines(text[:end]) {
		var s record.Step
		if err := json.Unmarshal(line, &s); err != nil {
			f.Lost++ // a killed process had not finished it
			continue
		}
		switch s.Kind {
		case record.Started:
			f.started = s.Wall
		case record.Dropped:
			f.Lost += s.Lost
		}
		s.Wall = f.started.Add(s.Mono)
		all = append(all, s)
	}
	sort(all)
	return all, nil
}

// ReadAll reads the files of several replicas, and returns their steps in the order of
// time. lost is the number of steps that are known to be missing.
func ReadAll(paths ...string) (all []record.Step, lost int64, err error) {
	for _, path := range paths {
		f, err := Open(path)
		if err != nil {
			return nil, 0, err
		}
		some, err := f.Read()
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, 0, fmt.Errorf("read the steps in %s: %w", path, err)
		}
		all, lost = append(all, some...), lost+f.Lost
	}
	return Merge(all), lost, nil
}

// Merge puts the steps of several replicas into the order of time, and replaces addresses
// in To by the names of replicas. Steps of one replica that ended in the same instant stay
// as they are.
func Merge(all []record.Step) []record.Step {
	names := map[string]string{}
	for _, s := range all {
		if s.Kind == record.Started && s.Addr != "" {
			names[s.Addr] = s.Replica
		}
	}
	for i := range all {
		if name, ok := names[all[i].To]; ok {
			all[i].To = name
		}
	}
	sort(all)
	return all
}

func sort(all []record.Step) {
	slices.SortStableFunc(all, func(a, b record.Step) int { return a.Wall.Compare(b.Wall) })
}
