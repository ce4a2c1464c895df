//go:build !unix

package forward

// peek is not supported here. A busy replica may take over from a live seller, which is
// safe.
func peek(uintptr) bool { return false }
