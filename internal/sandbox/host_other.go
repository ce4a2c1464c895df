//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// errHost is returned for every server and replica, since each first opens a folder
// or reserves a port. On other systems children would outlive this process, and
// servers could not bind reserved ports.
var errHost = errors.New("private servers and replicas need Linux; loadtest attack runs everywhere")

// The signals that pause and resume a Process. They are never sent.
const (
	SIGSTOP = syscall.Signal(0)
	SIGCONT = syscall.Signal(0)
)

func checkHost() error { return errHost }

// ChildAttr is never used.
func ChildAttr() *syscall.SysProcAttr { return nil }

func detachedAttr() *syscall.SysProcAttr { return nil }

func dialFrom(context.Context, string, string, string) (net.Conn, error) { return nil, errHost }

func killGroup(*os.Process) error { return errHost }

func lockFile(*os.File) error { return errHost }

func bindAny() (*os.File, string, error) { return nil, "", errHost }
