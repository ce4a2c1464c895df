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

// tick is the unit of CPU time in /proc: USER_HZ, which Linux has fixed at 100
// for all programs.
const tick = time.Second / 100

// group is the processes of one kind: the replicas, the MySQL server.
type group struct {
	name string
	pids []int
}

// usage is what a group has used: CPU over a window, and memory at its peak.
type usage struct {
	cpu     time.Duration
	peakRSS int64 // bytes, of the largest process
}

// gauge reads what groups of processes use between two moments.
type gauge struct {
	groups []group
	first  []time.Duration
	cpu    []time.Duration // of the window, once there were two readings
	err    error
}

// read is called at the beginning and at the end of the window.
func (g *gauge) read() {
	now := make([]time.Duration, len(g.groups))
	for i, group := range g.groups {
		for _, pid := range group.pids {
			used, err := cpuTime(procPath(pid, "stat"))
			g.err = errors.Join(g.err, err)
			now[i] += used
			if g.first == nil {
				// Since now, not since its start. Where that is not allowed the peak
				// is the process's whole life's.
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

// usages are by group. The processes must still run: the peak is the kernel's.
func (g *gauge) usages() (map[string]usage, error) {
	if g.err == nil && g.cpu == nil {
		g.err = errors.New("the window was not measured")
	}
	all := map[string]usage{}
	for i, group := range g.groups {
		if g.err != nil {
			return nil, fmt.Errorf("read what processes use: %w", g.err)
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

// cpuTime is what a process has used in user and kernel, by /proc/PID/stat.
func cpuTime(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses, which may hold
	// spaces and parentheses: the others come after the last one.
	const utime, stime = 11, 12 // behind the name
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

// peakRSS is the most memory that a process has had, by /proc/PID/status.
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
