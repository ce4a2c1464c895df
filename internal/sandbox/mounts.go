package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// mount gives the server file systems in memory that it alone sees, and that end with
// it: a disk of a fixed size for its data, and one for what libfaketime would leave
// behind in /dev/shm when the server is killed.
func (m *MySQL) mount(ctx context.Context, cfg Config) (err error) {
	if cfg.MySQLDisk == 0 && !cfg.FakeClock {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("only root can mount what a small disk or a clock of its own needs")
	}
	script := ""
	var clock []string
	if cfg.FakeClock {
		m.clock = m.dataDir + "-clock"
		if clock, err = fakeClock(m.clock); err != nil {
			return err
		}
		script = "mount -t tmpfs none /dev/shm\n"
	}
	if cfg.MySQLDisk > 0 {
		if err := os.Mkdir(m.dataDir, 0o700); err != nil {
			return err
		}
		script += fmt.Sprintf(`mount -t tmpfs -o mode=700,size=%dM none "$0"`, cfg.MySQLDisk)
	}
	if m.mounts, err = unshare(ctx, "mount", script, m.dataDir); err != nil {
		return err
	}
	if cfg.MySQLDisk > 0 {
		m.ballast = filepath.Join("/proc", m.mounts.pid(), "root", m.dataDir, "ballast")
	}
	m.prefix = slices.Concat(m.prefix, m.mounts.enter(), clock)
	return nil
}

// unmount undoes mount.
func (m *MySQL) unmount() {
	if m.mounts != nil {
		m.mounts.holder.Kill()
	}
}

// FillDisk fills the server's disk. It needs Config.MySQLDisk. FreeDisk undoes it.
func (m *MySQL) FillDisk() error {
	if m.ballast == "" {
		return errors.New("the database has no small disk: set Config.MySQLDisk")
	}
	file, err := os.OpenFile(m.ballast, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	block := make([]byte, 4<<10) // the disk has no smaller space
	for err == nil {
		_, err = file.Write(block)
	}
	if errors.Is(err, syscall.ENOSPC) {
		return nil
	}
	return err
}

// FreeDisk gives the space back that FillDisk took.
func (m *MySQL) FreeDisk() error {
	if m.ballast == "" {
		return errors.New("the database has no small disk: set Config.MySQLDisk")
	}
	if err := os.Remove(m.ballast); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
