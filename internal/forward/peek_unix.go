//go:build unix

package forward

import "syscall"

// peek reports whether a socket holds unread bytes.
func peek(fd uintptr) bool {
	var one [1]byte
	n, _, _ := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT) // n <= 0 on an error
	return n > 0
}
