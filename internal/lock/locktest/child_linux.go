package locktest

import "syscall"

// endsWithParent lets a child end when the test does, however that ends.
func endsWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
