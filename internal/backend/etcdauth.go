package backend

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// RequireEtcdPasswords makes etcd refuse clients without a password. It creates the
// user of s, with a role of the same name, who may read and write the keys under
// --etcd-prefix and nothing else, and root, with the given password. It may run again,
// also after it was interrupted, and then changes only what differs, so that clients
// keep their tokens.
func (s *Servers) RequireEtcdPasswords(ctx context.Context, rootPassword string) error {
	asRoot := *s
	asRoot.EtcdUsername, asRoot.EtcdPassword = "root", rootPassword
	// Until etcd requires passwords, it ignores this one.
	client, err := asRoot.etcdClient(nil)
	if err != nil {
		return err
	}
	err = s.createEtcdUsers(ctx, client, rootPassword)
	if err == nil {
		_, err = client.AuthEnable(ctx)
	}
	return errors.Join(err, client.Close())
}

func (s *Servers) createEtcdUsers(ctx context.Context, client *clientv3.Client, rootPassword string) error {
	if err := etcdUser(ctx, client, "root", rootPassword, "root"); err != nil {
		return err
	}
	role := s.EtcdUsername // another service may have another role in the same etcd
	if _, err := client.RoleAdd(ctx, role); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return fmt.Errorf("add etcd's role %s: %w", role, err)
	}
	end := clientv3.GetPrefixRangeEnd(s.Prefix)
	current, err := client.RoleGet(ctx, role)
	if err != nil {
		return fmt.Errorf("read etcd's role %s: %w", role, err)
	}
	granted := false
	for _, have := range current.Perm {
		if string(have.Key) == s.Prefix && string(have.RangeEnd) == end && have.PermType == clientv3.PermReadWrite {
			granted = true
			continue
		}
		if _, err := client.RoleRevokePermission(ctx, role, string(have.Key), string(have.RangeEnd)); err != nil {
			return fmt.Errorf("revoke a right of etcd's role %s: %w", role, err)
		}
	}
	if !granted {
		if _, err := client.RoleGrantPermission(ctx, role, s.Prefix, end, clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
			return fmt.Errorf("grant %s to etcd's role %s: %w", s.Prefix, role, err)
		}
	}
	return etcdUser(ctx, client, s.EtcdUsername, s.EtcdPassword, role)
}

// etcdUser creates a user, or corrects its password, and grants it a role.
func etcdUser(ctx context.Context, client *clientv3.Client, name, password, role string) error {
	_, err := client.UserAdd(ctx, name, password)
	if errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		if _, err = client.Authenticate(ctx, name, password); err != nil {
			_, err = client.UserChangePassword(ctx, name, password)
		}
	}
	if err == nil {
		_, err = client.UserGrantRole(ctx, name, role) // nothing changes if it has the role
	}
	if err != nil {
		return fmt.Errorf("create etcd's user %s: %w", name, err)
	}
	return nil
}
