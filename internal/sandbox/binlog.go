package sandbox

import (
	"context"
	"fmt"
	"slices"
)

// binlogOptions log every transaction a second time, as a server with replicas
// has to, and sync that log at each commit, too. They come after mysqlSettings,
// of which --skip-log-bin is one: the last option counts.
var binlogOptions = []string{"--log-bin=binlog", "--server-id=1", "--binlog-format=ROW", "--sync-binlog=1"}

// SetBinlog starts the server again with a synced binlog, or without one, on the
// same port and data. Clients have to connect again.
func (m *MySQL) SetBinlog(ctx context.Context, on bool) error {
	m.lifecycle.Lock()
	defer m.lifecycle.Unlock()
	if err := m.stop(ctx); err != nil {
		return fmt.Errorf("set the binlog: %w", err)
	}
	argv := slices.DeleteFunc(slices.Clone(m.cfg.Argv), func(option string) bool { return slices.Contains(binlogOptions, option) })
	if on {
		argv = append(argv, binlogOptions...)
	}
	m.cfg.Argv = argv
	return m.start(ctx)
}
