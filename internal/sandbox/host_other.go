//go:build !linux

package sandbox

import (
	"errors"
	"os"
	"syscall"
)

// errHost is why no server or replica starts here. Each first wants a folder or a
// port. Children would outlive this process, and no server could bind a reserved
// port.
var errHost = errors.New("private servers and replicas need Linux; loadtest attack runs everywhere")

// The signals that pause and resume a Process: none can be started.
const (
	SIGSTOP = syscall.Signal(0)
	SIGCONT = syscall.Signal(0)
)

func checkHost() error { return errHost }

// ChildAttr is never used.
func ChildAttr() *syscall.SysProcAttr { return nil }

func killGroup(*os.Process) error { return errHost }

func lockFile(*os.File) error { return errHost }

func bindAny() (*os.File, string, error) { return nil, "", errHost }
