package sandbox

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// The signals that pause and resume a Process.
const (
	SIGSTOP = syscall.SIGSTOP
	SIGCONT = syscall.SIGCONT
)

// checkHost says whether servers can be started on this system.
func checkHost() error { return nil }

// ChildAttr ties a child to this process, and keeps Ctrl-C from it: see Process.
func ChildAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills a child with ChildAttr, and its own children.
func killGroup(child *os.Process) error { return syscall.Kill(-child.Pid, syscall.SIGKILL) }

// lockFile locks a file for as long as it is open, or fails at once.
func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// bindAny returns a socket that is bound to a port of the kernel's choice.
// SO_REUSEADDR has to stand on both sockets for a second one to be bound to the
// same port.
func bindAny() (socket *os.File, addr string, err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", os.NewSyscallError("socket", err)
	}
	socket = os.NewFile(uintptr(fd), "reserved port")
	defer func() {
		if err != nil {
			_ = socket.Close() // nothing was bound
		}
	}()
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return nil, "", os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback.As4()}); err != nil {
		return nil, "", os.NewSyscallError("bind", err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		return nil, "", os.NewSyscallError("getsockname", err)
	}
	inet, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		return nil, "", fmt.Errorf("bound to %T", bound)
	}
	return socket, netip.AddrPortFrom(loopback, uint16(inet.Port)).String(), nil
}
