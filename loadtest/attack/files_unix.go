//go:build unix

package attack

import (
	"math"
	"syscall"
)

// openFiles returns how many files and sockets this process may open.
func openFiles() int {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		return math.MaxInt32
	}
	return int(min(files.Cur, math.MaxInt32))
}
