//go:build !unix

package attack

// openFiles has no limit on Windows that an attack would reach.
func openFiles() (n int, ok bool) { return 0, false }
