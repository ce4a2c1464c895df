package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The signals that pause and resume a Process.
const (
	SIGSTOP = syscall.SIGSTOP
	SIGCONT = syscall.SIGCONT
)

// checkHost returns an error on systems where servers cannot be started.
func checkHost() error { return nil }

// ChildAttr makes the kernel kill a child with this process, and shields the child
// from Ctrl-C: see Process.
func ChildAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// detachedAttr shields a child from Ctrl-C, and lets it outlive this process.
func detachedAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// dialFrom connects from the network namespace of that path. A socket stays in the
// namespace of the thread that created it: only that moment needs to be in there.
func dialFrom(ctx context.Context, namespace, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err) // a name would be looked up by another thread
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, as nobody else may get it.
		runtime.LockOSThread()
		target, err := os.Open(namespace)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer target.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: os.NewSyscallError("setns", err)}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	got := <-done
	return got.conn, got.err
}

// killGroup kills a child that was started with ChildAttr, and its children.
func killGroup(child *os.Process) error { return syscall.Kill(-child.Pid, syscall.SIGKILL) }

// lockFile locks a file until it is closed. It does not wait.
func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// bindAny returns a socket that is bound to a free port. A second socket can be bound
// to that port if both have SO_REUSEADDR.
func bindAny() (socket *os.File, addr string, err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", os.NewSyscallError("socket", err)
	}
	socket = os.NewFile(uintptr(fd), "reserved port")
	defer func() {
		if err != nil {
			_ = socket.Close()
		}
	}()
	ip := netip.MustParseAddr(loopback)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return nil, "", os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: ip.As4()}); err != nil {
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
	return socket, netip.AddrPortFrom(ip, uint16(inet.Port)).String(), nil
}
