package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// memcachedPackage is Debian's. It starts a service, where a machine has
// services: scripts/setup takes the program alone out of it.
const memcachedPackage = "memcached"

// MemcachedConfig says how large a memcached server is.
type MemcachedConfig struct {
	// Megabytes for items; 0 is 64. When they are full, the server throws out
	// what was not used for the longest time.
	Megabytes int
}

// Memcached is a private memcached server.
type Memcached struct {
	*Process
	// Addr is its host and port.
	Addr string
}

// StartMemcached starts a server on a free port. It keeps its data in memory
// alone. It is gone after Close, or with this process. ctx bounds the start
// alone.
func StartMemcached(ctx context.Context, cfg MemcachedConfig) (*Memcached, error) {
	program, err := memcachedProgram()
	if err != nil {
		return nil, err
	}
	reserved, err := ReservePort()
	if err != nil {
		return nil, err
	}
	m := &Memcached{Addr: reserved.Addr}
	if cfg.Megabytes == 0 {
		cfg.Megabytes = 64
	}
	host, port, _ := net.SplitHostPort(m.Addr) // our own
	argv := []string{
		program, "-l", host, "-p", port, "-U", "0", // no UDP
		"-m", strconv.Itoa(cfg.Megabytes), "-t", "2",
	}
	if os.Geteuid() == 0 { // it refuses to run as root unless it is told to
		argv = append(argv, "-u", "root")
	}
	m.Process, err = StartProcess(ctx, ProcessConfig{Name: "memcached", Argv: argv, Ports: []*Port{reserved}, Ready: m.ready})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// FindMemcached says whether the server's program is installed.
func FindMemcached() error {
	_, err := memcachedProgram()
	return err
}

func memcachedProgram() (string, error) {
	program, err := findProgram("memcached", memcachedPackage)
	if err != nil {
		return "", fmt.Errorf("memcached is not installed: run `scripts/setup --memcached` or `apt-get install %s`: %w",
			memcachedPackage, errors.Unwrap(err))
	}
	return program, nil
}

// Close ends the server. It has nothing to lose, and would take a second to end
// by itself. The error is nil; it is there as with other servers.
func (m *Memcached) Close() error {
	m.Kill()
	return nil
}

// ready asks for the version. Another server cannot answer in its stead: ours
// ends where it cannot have the port.
func (m *Memcached) ready(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprint(conn, "version\r\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("version: %w", err)
	}
	if !strings.HasPrefix(answer, "VERSION ") {
		return fmt.Errorf("version: %q", answer)
	}
	return nil
}
