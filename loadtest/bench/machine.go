package bench

import (
	"os"
	"runtime"
	"strings"
)

// Machine describes the machine of the bench.
type Machine struct {
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	MemoryGiB float64 `json:"memory_gib"`
	Kernel    string  `json:"kernel"`
	Go        string  `json:"go"`
}

// thisMachine omits what the system does not report.
func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: field("/proc/cpuinfo", "model name")}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(kernel))
	}
	var kib float64
	for _, c := range strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB") {
		kib = 10*kib + float64(c-'0')
	}
	m.MemoryGiB = round(kib/(1<<20), 10)
	return m
}

// field is the value of the first line "name: value" of a file, or empty.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
