//go:build !linux

package locktest

import "syscall"

// endsWithParent does nothing here: a child ends when its input does.
func endsWithParent() *syscall.SysProcAttr { return nil }
