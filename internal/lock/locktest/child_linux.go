package locktest

import "syscall"

// endsWithParent kills a child when the test process ends in any way.
func endsWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
