//go:build unix

package forward

import "syscall"

// peek reports whether a socket holds bytes that were not read yet.
func peek(fd uintptr) bool {
	var one [1]byte
	n, _, _ := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT) // an error leaves n at 0 or less
	return n > 0
}
