package sandbox

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// group is MySQL's Group Replication with one primary.
type group struct {
	*Cluster
	id     string
	addrs  []string // for traffic within the group
	subnet string
}

// groupPort is for traffic within the group on a host of its own.
const groupPort = 33061

func (c *Cluster) planGroup(ctx context.Context, program *databaseProgram, dir string, cfg Config) error {
	g := &group{Cluster: c, id: uuid.NewString(), subnet: c.network.subnet()}
	for range cfg.MySQLNodes {
		addrs, err := c.plan(ctx, program, dir, cfg, groupPort)
		if err != nil {
			return err
		}
		g.addrs = append(g.addrs, addrs[0])
	}
	c.kind, c.name, c.copied = g, "Group Replication", true
	return nil
}

func (g *group) options(n int, _ bool) []string {
	host, port, _ := net.SplitHostPort(g.Nodes[n].addr) // our own
	return []string{
		"--server-id=" + strconv.Itoa(n+1), "--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=binlog", "--sync-binlog=1",
		"--report-host=" + host, "--report-port=" + port, "--plugin-load-add=group_replication.so",
		"--group-replication-group-name=" + g.id,
		"--group-replication-local-address=" + g.addrs[n],
		"--group-replication-group-seeds=" + strings.Join(g.addrs, ","),
		"--group-replication-ip-allowlist=" + g.subnet,
		"--group-replication-start-on-boot=OFF", "--group-replication-bootstrap-group=OFF",
		"--group-replication-recovery-get-public-key=ON",
		// Expel a failed server as soon as it is noticed; the default adds five seconds.
		"--group-replication-member-expel-timeout=0",
		// A second try to rejoin would come five minutes after the first.
		"--group-replication-autorejoin-tries=1",
	}
}

func (*group) resume(context.Context, int) ([]string, error) { return nil, nil }

const ownState = "SELECT member_state FROM performance_schema.replication_group_members WHERE member_id IN (@@server_uuid, '') " +
	"UNION ALL SELECT 'OFFLINE' LIMIT 1"

func (g *group) join(ctx context.Context, m *MySQL, founds bool) error {
	var state string
	if err := m.ask(ctx, ownState, &state); err != nil {
		return err
	}
	var statements []string
	switch state {
	case "OFFLINE":
	case "ERROR": // it may still be trying to rejoin by itself
		var tries bool
		if err := m.ask(ctx, "SELECT COUNT(*) > 0 FROM performance_schema.threads WHERE name LIKE '%autorejoin'", &tries); err != nil || tries {
			return err
		}
		statements = append(statements, "STOP GROUP_REPLICATION")
	default:
		return nil
	}
	statements = append(statements, "SET GLOBAL offline_mode = OFF",
		"CHANGE REPLICATION SOURCE TO SOURCE_USER = '"+mysqlUser+"', SOURCE_PASSWORD = '"+m.password+"' FOR CHANNEL 'group_replication_recovery'")
	if founds {
		return m.exec(ctx, append(statements, "SET GLOBAL group_replication_bootstrap_group = ON", "START GROUP_REPLICATION",
			"SET GLOBAL group_replication_bootstrap_group = OFF")...)
	}
	if err := m.exec(ctx, statements...); err != nil {
		return err
	}
	// This fails while the others still count this server's last run as a member.
	_ = m.exec(ctx, "START GROUP_REPLICATION")
	return nil
}

// in also asks the primary: a server that was expelled while it was paused may not
// know it yet.
func (g *group) in(ctx context.Context, m *MySQL) error {
	var own, others string
	if err := m.ask(ctx, ownState, &own); err != nil {
		return err
	}
	primary, err := g.Primary(ctx)
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(m.addr) // our own
	err = g.Nodes[primary].ask(ctx, "SELECT COALESCE(MAX(member_state), 'OFFLINE') FROM performance_schema.replication_group_members "+
		"WHERE member_host = '"+host+"' AND member_port = "+port, &others)
	if err == nil && (own != "ONLINE" || others != "ONLINE") {
		err = fmt.Errorf("its state in the group is %s, and %s according to the primary", own, others)
	}
	return err
}

// writable also requires a majority: a primary that has lost the others still believes
// that it is the primary.
func (*group) writable(ctx context.Context, m *MySQL) (view int64, err error) {
	err = m.ask(ctx, "SELECT CAST(SUBSTRING_INDEX(MAX(view_id), ':', -1) AS UNSIGNED) FROM performance_schema.replication_group_member_stats "+
		"WHERE NOT @@super_read_only AND (SELECT 2 * SUM(member_state <> 'UNREACHABLE') > COUNT(*) "+
		"AND SUM(member_id = @@server_uuid AND member_state = 'ONLINE' AND member_role = 'PRIMARY') = 1 "+
		"FROM performance_schema.replication_group_members) HAVING MAX(view_id) > ''", &view)
	return view, err
}
