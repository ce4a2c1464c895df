package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"flashsale/internal/sleep"
)

// fakeClock is the prefix of a command line whose program has the system's wall clock
// plus what the file says, and the system's monotonic clock.
func fakeClock(file string) ([]string, error) {
	// The one for threads. A MySQL that brings its own C library loads it, too.
	found, _ := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1") // the pattern is valid
	if len(found) == 0 {
		return nil, source{"scripts/setup --faketime", "libfaketime"}.missing("libfaketimeMT.so.1", exec.ErrNotFound)
	}
	return []string{
		"env", "LD_PRELOAD=" + found[0], "FAKETIME_TIMESTAMP_FILE=" + file, "FAKETIME_CACHE_DURATION=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1",
		// Otherwise a wait by the monotonic clock ends at once, and MySQL's threads spin.
		"FAKETIME_FORCE_MONOTONIC_FIX=0",
	}, os.WriteFile(file, []byte("+0"), 0o600)
}

// JumpClock steps the server's wall clock forward by d, or back if d is negative, in
// whole seconds. It returns once the server's clock has changed, after at most about a
// second. It needs Config.FakeClock, and counts from the present time of the server.
func (m *MySQL) JumpClock(ctx context.Context, d time.Duration) error {
	if m.clock == "" {
		return errors.New("the database has the clock of the system: set Config.FakeClock")
	}
	m.jumped += d.Truncate(time.Second)
	// A reader must never see half of the file.
	part := m.clock + ".part"
	if err := os.WriteFile(part, fmt.Appendf(nil, "%+d", int64(m.jumped.Seconds())), 0o600); err != nil {
		return err
	}
	if err := os.Rename(part, m.clock); err != nil {
		return err
	}
	for {
		var seconds float64
		if err := m.ask(ctx, "SELECT UNIX_TIMESTAMP(NOW(6))", &seconds); err != nil {
			return fmt.Errorf("read the clock of the database: %w", err)
		}
		if off := time.Until(time.UnixMicro(int64(seconds*1e6))) - m.jumped; off.Abs() <= clockTolerance {
			return nil
		}
		if err := sleep.For(ctx, readyPauseMax); err != nil {
			return fmt.Errorf("wait for the clock of the database to jump: %w", err)
		}
	}
}

// clockTolerance is more than a query takes, and less than the least jump.
const clockTolerance = 500 * time.Millisecond
