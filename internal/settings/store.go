package settings

import (
	"context"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrChanged says that somebody else has changed the setting meanwhile. Nothing
// was written.
var ErrChanged = errors.New("it was changed meanwhile")

// maxKeys bounds what is read: many times what the table has. More is a mistake,
// and is refused as one.
const maxKeys = 100

// Store is where the settings of one database stand in etcd.
type Store struct {
	Client *clientv3.Client
	// Prefix of all keys. It names the database, and ends in a slash.
	Prefix string
}

// Entry is a value as it stands in etcd. It need not be valid, nor its setting
// exist.
type Entry struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Revision int64  `json:"revision"`
}

// List returns what stands in etcd, in the order of the names, and the revision
// as of which it does.
func (s Store) List(ctx context.Context) (entries []Entry, revision int64, err error) {
	answer, err := s.Client.Get(ctx, s.Prefix, clientv3.WithPrefix(), clientv3.WithLimit(maxKeys))
	if err != nil {
		return nil, 0, fmt.Errorf("list the settings: %w", err)
	}
	if answer.More {
		return nil, 0, fmt.Errorf("list the settings: more than %d keys stand under %s", maxKeys, s.Prefix)
	}
	for _, kv := range answer.Kvs {
		entries = append(entries, Entry{Name: s.name(kv.Key), Value: string(kv.Value), Revision: kv.ModRevision})
	}
	return entries, answer.Header.Revision, nil
}

// Get returns one setting's entry; its Revision is 0 where etcd has none.
func (s Store) Get(ctx context.Context, name string) (Entry, error) {
	answer, err := s.Client.Get(ctx, s.Prefix+name)
	if err != nil {
		return Entry{}, fmt.Errorf("read the setting: %w", err)
	}
	if len(answer.Kvs) == 0 {
		return Entry{Name: name}, nil
	}
	kv := answer.Kvs[0]
	return Entry{Name: name, Value: string(kv.Value), Revision: kv.ModRevision}, nil
}

// Set writes a valid value, if the setting is still as it was at the revision
// that Get or List gave, 0 for one that etcd does not have. It returns the new
// revision, or ErrChanged.
func (s Store) Set(ctx context.Context, name, value string, revision int64) (int64, error) {
	if err := Check(name, value); err != nil {
		return 0, err
	}
	return s.swap(ctx, name, revision, clientv3.OpPut(s.Prefix+name, value))
}

// Delete lets the flags decide again, if the setting is still as it was at that
// revision. A name that is in no table may be deleted as well.
func (s Store) Delete(ctx context.Context, name string, revision int64) error {
	_, err := s.swap(ctx, name, revision, clientv3.OpDelete(s.Prefix+name))
	return err
}

func (s Store) swap(ctx context.Context, name string, revision int64, then clientv3.Op) (int64, error) {
	answer, err := s.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(s.Prefix+name), "=", revision)).Then(then).Commit()
	if err != nil {
		return 0, fmt.Errorf("write %s (it may have been written: look): %w", name, err)
	}
	if !answer.Succeeded {
		return 0, fmt.Errorf("%s: %w", name, ErrChanged)
	}
	return answer.Header.Revision, nil
}

func (s Store) name(key []byte) string { return strings.TrimPrefix(string(key), s.Prefix) }
