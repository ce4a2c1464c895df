//go:build linux || darwin

package main

import (
	"fmt"
	"math"
	"syscall"
)

// openFiles returns how many files this process may open. Go has raised the soft limit to
// the hard one.
func openFiles() (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int(min(files.Cur, math.MaxInt32)), nil
}
