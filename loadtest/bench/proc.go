package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Machine describes the machine of the bench.
type Machine struct {
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	MemoryGiB float64 `json:"memory_gib"`
	Kernel    string  `json:"kernel"`
	Go        string  `json:"go"`
}

// ThisMachine describes this machine. It omits what the system does not report.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.CPU, _ = field("/proc/cpuinfo", "model name")
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(kernel))
	}
	memory, _ := byteField("/proc/meminfo", "MemTotal")
	m.MemoryGiB = round(float64(memory)/(1<<30), 10)
	return m
}

// field is the value of the first line "name: value" of a file.
func field(path, name string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s: no %s", path, name)
}

// byteField is the value in bytes of a line "name: N kB".
func byteField(path, name string) (int64, error) {
	value, err := field(path, name)
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return kib << 10, nil
}

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
				// Resets the peak, or else it is over the whole life of the process.
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
			peak, err := byteField(procPath(pid, "status"), "VmHWM")
			g.err = errors.Join(g.err, err)
			u.peakRSS = max(u.peakRSS, peak)
		}
		all[group.name] = u
	}
	return all, g.err
}

func procPath(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }

// tick is the unit of CPU time in /proc: USER_HZ, which is always 100 on Linux.
const tick = time.Second / 100

// cpuTime is the user and system time of a process, from /proc/PID/stat.
func cpuTime(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The second field, "(name)", may contain spaces and parentheses.
	const utime, stime = 11, 12 // after the name
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) <= stime {
		return 0, fmt.Errorf("%s: %q", path, text)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	system, systemErr := strconv.ParseInt(fields[stime], 10, 64)
	if err := errors.Join(err, systemErr); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return time.Duration(user+system) * tick, nil
}
