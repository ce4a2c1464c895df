//go:build unix

package mutant

import (
	"os/exec"
	"syscall"
)

// killWithChildren makes the end of cmd's context kill it and its children.
func killWithChildren(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
