//go:build unix

package attack

import (
	"math"
	"syscall"
)

// openFiles returns how many files and sockets this process may open; ok is false if
// there is no limit.
func openFiles() (n int, ok bool) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur > math.MaxInt32 {
		return 0, false
	}
	return int(files.Cur), true
}
