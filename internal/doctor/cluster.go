package doctor

import (
	"context"
	"fmt"

	"flashsale/internal/stock"
)

// checkGalera examines a Galera node.
func (m *mysqlServer) checkGalera(ctx context.Context) error {
	if !m.on("wsrep_on") {
		return nil
	}
	found, err := m.pairs(ctx, "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_ready')")
	if err != nil {
		return fmt.Errorf("read Galera's status: %w", err)
	}
	if status, ready := found["wsrep_cluster_status"], found["wsrep_ready"]; status != "Primary" || ready != "ON" {
		m.report.Fault("galera", "start the cluster's other nodes or bootstrap it, or use a node in the primary component",
			"this node does not accept queries: wsrep_cluster_status is %s, wsrep_ready is %s", status, ready)
	} else {
		m.report.Fine("galera", "a node of the primary component")
	}
	return nil
}

// checkGroup examines a member of Group Replication. COMMIT hangs in a group whose
// majority is unreachable.
func (m *mysqlServer) checkGroup(ctx context.Context) error {
	const check = "group"
	if m.variables["group_replication_group_name"] == "" {
		return nil
	}
	var state string
	var members, reachable int
	err := m.db.SQL.QueryRowContext(ctx, "SELECT COALESCE(MAX(CASE WHEN member_id = @@server_uuid THEN member_state END), 'OFFLINE'), COUNT(*), "+
		"COALESCE(SUM(member_state IN ('ONLINE', 'RECOVERING')), 0) FROM performance_schema.replication_group_members").Scan(&state, &members, &reachable)
	switch {
	case stock.IsDenied(err):
		m.report.Warn(check, "GRANT SELECT ON performance_schema.replication_group_members TO the account", "the account cannot read its state: %v", err)
	case err != nil:
		return fmt.Errorf("read the group's members: %w", err)
	case state != "ONLINE":
		m.report.Fault(check, "START GROUP_REPLICATION on this member, or use one that is ONLINE", "this member is %s", state)
	case 2*reachable <= members:
		m.report.Fault(check, "start the other members, or set group_replication_force_members",
			"%d of %d members are reachable, which is no majority: COMMIT hangs", reachable, members)
	default:
		m.report.Fine(check, "%d of %d members are reachable", reachable, members)
	}
	return nil
}
