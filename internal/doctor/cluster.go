package doctor

import (
	"context"
	"fmt"

	"flashsale/internal/stock"
)

// checkGalera looks at a node of Galera.
func (m *mysqlServer) checkGalera(ctx context.Context) error {
	if !m.on("wsrep_on") {
		return nil
	}
	var name, status, ready string
	for variable, into := range map[string]*string{"wsrep_cluster_status": &status, "wsrep_ready": &ready} {
		if err := m.db.SQL.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE '"+variable+"'").Scan(&name, into); err != nil {
			return fmt.Errorf("read %s: %w", variable, err)
		}
	}
	if status != "Primary" || ready != "ON" {
		m.report.Fault("galera", "bring the cluster's other nodes back, or bootstrap it; or use a node that is in the primary component",
			"this node takes no orders: wsrep_cluster_status is %s, wsrep_ready is %s", status, ready)
	} else {
		m.report.Fine("galera", "a node of the primary component")
	}
	return nil
}

// checkGroup looks at a member of Group Replication. Where most of a group cannot be
// reached, COMMIT hangs.
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
		m.report.Warn(check, "GRANT SELECT ON performance_schema.replication_group_members TO the account", "its state cannot be seen: %v", err)
	case err != nil:
		return fmt.Errorf("read the group's members: %w", err)
	case state != "ONLINE":
		m.report.Fault(check, "START GROUP_REPLICATION on it, or use a member that is ONLINE", "this member is %s", state)
	case 2*reachable <= members:
		m.report.Fault(check, "bring the others back, or set group_replication_force_members", "%d of %d members can be reached, which is no majority: COMMIT hangs", reachable, members)
	default:
		m.report.Fine(check, "%d of %d members can be reached", reachable, members)
	}
	return nil
}
