//go:build unix

package attack

import (
	"math"
	"syscall"
)

// openFiles is how many files and sockets the system lets this process open; ok is
// false where it sets no limit.
func openFiles() (n int, ok bool) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur > math.MaxInt32 {
		return 0, false
	}
	return int(files.Cur), true
}
