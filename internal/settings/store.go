package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrChanged means that the setting was changed since it was read. Nothing was written.
var ErrChanged = errors.New("the setting was changed meanwhile")

// maxUnknown bounds the keys that are listed although they are not settings: one may be
// a misspelled setting, and a hundred are enough to show what wrote them.
const maxUnknown = 100

// Store has the settings of one database in etcd.
type Store struct {
	Client *clientv3.Client
	Prefix string // of all keys; it names the database, and ends in a slash
}

// Entry is a value in etcd. It may be invalid, or its setting may not exist.
type Entry struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Revision int64  `json:"revision"`
}

// Listing has the keys under the prefix as of one revision.
type Listing struct {
	// Entries are sorted by name: every setting that etcd has, and up to maxUnknown
	// other keys, without their values.
	Entries  []Entry
	More     bool // there are more keys that are not settings
	Revision int64
}

// List reads every setting by its own name, so that other keys cannot displace one,
// whatever their number and size.
func (s Store) List(ctx context.Context) (Listing, error) {
	reads := make([]clientv3.Op, 0, len(table)+1)
	for _, row := range table {
		reads = append(reads, clientv3.OpGet(s.Prefix+row.Name))
	}
	// These keys include the settings, hence the larger limit.
	reads = append(reads, clientv3.OpGet(s.Prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithLimit(int64(maxUnknown+len(table)))))
	answer, err := s.Client.Txn(ctx).Then(reads...).Commit()
	if err != nil {
		return Listing{}, fmt.Errorf("list the settings: %w", err)
	}
	listing := Listing{Revision: answer.Header.Revision}
	for i := range table {
		for _, kv := range answer.Responses[i].GetResponseRange().Kvs {
			listing.Entries = append(listing.Entries, Entry{Name: s.name(kv.Key), Value: string(kv.Value), Revision: kv.ModRevision})
		}
	}
	all := answer.Responses[len(table)].GetResponseRange()
	most := len(listing.Entries) + maxUnknown
	for _, kv := range all.Kvs {
		if name := s.name(kv.Key); len(listing.Entries) < most && !slices.Contains(Names(), name) {
			listing.Entries = append(listing.Entries, Entry{Name: name, Revision: kv.ModRevision})
		}
	}
	listing.More = int(all.Count) > len(listing.Entries) // Count ignores the limit
	slices.SortFunc(listing.Entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return listing, nil
}

// Get returns one setting's entry. Its Revision is 0 if etcd does not have it.
func (s Store) Get(ctx context.Context, name string) (Entry, error) {
	answer, err := s.Client.Get(ctx, s.Prefix+name)
	if err != nil {
		return Entry{}, fmt.Errorf("read the setting: %w", err)
	}
	e := Entry{Name: name}
	for _, kv := range answer.Kvs {
		e.Value, e.Revision = string(kv.Value), kv.ModRevision
	}
	return e, nil
}

// Set writes a valid value if the setting still has the revision that Get or List
// returned; 0 if etcd does not have it. It returns the new revision, or ErrChanged.
func (s Store) Set(ctx context.Context, name, value string, revision int64) (int64, error) {
	if err := Check(name, value); err != nil {
		return 0, err
	}
	return s.swap(ctx, name, revision, clientv3.OpPut(s.Prefix+name, value))
}

// Delete deletes the value, so that the flags apply again, if the setting still has that
// revision. It also deletes keys that are not settings.
func (s Store) Delete(ctx context.Context, name string, revision int64) error {
	_, err := s.swap(ctx, name, revision, clientv3.OpDelete(s.Prefix+name))
	return err
}

func (s Store) swap(ctx context.Context, name string, revision int64, then clientv3.Op) (int64, error) {
	answer, err := s.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(s.Prefix+name), "=", revision)).Then(then).Commit()
	if err != nil {
		return 0, fmt.Errorf("write %s (it may have been written; read it again): %w", name, err)
	}
	if !answer.Succeeded {
		return 0, fmt.Errorf("%s: %w", name, ErrChanged)
	}
	return answer.Header.Revision, nil
}

func (s Store) name(key []byte) string { return strings.TrimPrefix(string(key), s.Prefix) }
