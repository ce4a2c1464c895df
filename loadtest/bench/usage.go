package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc: USER_HZ, which is always 100 on Linux.
const tick = time.Second / 100

// group is the processes of one kind: the replicas, or the MySQL server.
type group struct {
	name string
	pids []int
}

// usage is the CPU time of a group in the window, and its peak memory.
type usage struct {
	cpu     time.Duration
	peakRSS int64 // bytes, of the largest process
}

// gauge measures the usage of groups of processes between two calls of read.
type gauge struct {
	groups []group
	first  []time.Duration
	cpu    []time.Duration // of the window, after two calls of read
	err    error
}

// read is called at the start and at the end of the window.
func (g *gauge) read() {
	now := make([]time.Duration, len(g.groups))
	for i, group := range g.groups {
		for _, pid := range group.pids {
			used, err := cpuTime(procPath(pid, "stat"))
			g.err = errors.Join(g.err, err)
			now[i] += used
			if g.first == nil {
				// Resets the peak. Without the permission to do so, the peak is over
				// the whole life of the process.
				_ = os.WriteFile(procPath(pid, "clear_refs"), []byte("5"), 0)
			}
		}
	}
	if g.first == nil {
		g.first = now
		return
	}
	g.cpu = now
	for i := range g.cpu {
		g.cpu[i] -= g.first[i]
	}
}

// usages returns the usage by group. The processes must still run.
func (g *gauge) usages() (map[string]usage, error) {
	if g.err == nil && g.cpu == nil {
		g.err = errors.New("the window was not measured")
	}
	all := map[string]usage{}
	for i, group := range g.groups {
		if g.err != nil {
			return nil, fmt.Errorf("read the usage of processes: %w", g.err)
		}
		u := usage{cpu: g.cpu[i]}
		for _, pid := range group.pids {
			peak, err := peakRSS(procPath(pid, "status"))
			g.err = errors.Join(g.err, err)
			u.peakRSS = max(u.peakRSS, peak)
		}
		all[group.name] = u
	}
	return all, g.err
}

func procPath(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }

// cpuTime is the user and system time of a process, from /proc/PID/stat.
func cpuTime(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses. The name may contain
	// spaces and parentheses.
	const utime, stime = 11, 12 // after the name
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) <= stime {
		return 0, fmt.Errorf("%s: %q", path, text)
	}
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// peakRSS is the peak memory of a process, from /proc/PID/status.
func peakRSS(path string) (bytes int64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: no VmHWM", path)
}
