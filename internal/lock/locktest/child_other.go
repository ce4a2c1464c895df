//go:build !linux

package locktest

import "syscall"

// endsWithParent does nothing here. A child ends when its input is closed.
func endsWithParent() *syscall.SysProcAttr { return nil }
