package sandbox

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memcachedPackage is Debian's. Its installation starts a service, so scripts/setup
// extracts only the program.
var memcachedPackage = source{"scripts/setup --memcached", "memcached"}

// MemcachedConfig says how large a memcached server is.
type MemcachedConfig struct {
	// Megabytes for items; 0 is 64. A full server evicts the items that were least
	// recently used.
	Megabytes int
}

// Memcached is a private memcached server.
type Memcached struct {
	*Process
	// Addr is its host and port.
	Addr string
}

// StartMemcached starts a server on a free port. It runs until Close or until this
// process ends. ctx bounds only the start.
func StartMemcached(ctx context.Context, cfg MemcachedConfig) (*Memcached, error) {
	program, err := findProgram("memcached", memcachedPackage)
	if err != nil {
		return nil, err
	}
	port, err := ReservePort()
	if err != nil {
		return nil, err
	}
	m := &Memcached{Addr: port.Addr}
	argv := []string{
		program, "-l", loopback, "-p", portOf(m.Addr), "-U", "0", // no UDP
		"-m", strconv.Itoa(cmp.Or(cfg.Megabytes, 64)), "-t", "2",
	}
	if os.Geteuid() == 0 { // by default it refuses to run as root
		argv = append(argv, "-u", "root")
	}
	m.Process, err = StartProcess(ctx, ProcessConfig{Name: "memcached", Argv: argv, Ports: []*Port{port}, Ready: m.ready})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// FindMemcached returns a *MissingError if the server's program is not installed.
func FindMemcached() error {
	_, err := findProgram("memcached", memcachedPackage)
	return err
}

// Close kills the server: it has nothing to save, and would take a second to stop.
// The error is always nil.
func (m *Memcached) Close() error {
	m.Kill()
	return nil
}

// ready asks for the version. Another server cannot answer at Addr: ours exits if
// it cannot bind the port.
func (m *Memcached) ready(ctx context.Context) error {
	return query(ctx, m.Addr, "version\r\n", func(answer *bufio.Reader) error {
		line, err := answer.ReadString('\n')
		if err == nil && !strings.HasPrefix(line, "VERSION ") {
			err = fmt.Errorf("unexpected answer %q", line)
		}
		return err
	})
}
