package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrChanged says that somebody else has changed the setting meanwhile. Nothing
// was written.
var ErrChanged = errors.New("it was changed meanwhile")

// maxStrangers bounds the keys that are named though they are no settings: one is
// a slip of the pen, and of many a hundred show whose they are.
const maxStrangers = 100

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

// Listing is what stands in etcd as of one revision.
type Listing struct {
	// Entries are in the order of the names: every setting that stands there, and
	// up to maxStrangers other keys, whose values are not read.
	Entries []Entry
	// More says that there are others still, which are no settings.
	More     bool
	Revision int64
}

// List reads every setting by its own name, so that no number of other keys, nor
// the size of their values, keeps one of them from being read.
func (s Store) List(ctx context.Context) (Listing, error) {
	reads := make([]clientv3.Op, 0, len(table)+1)
	for _, row := range table {
		reads = append(reads, clientv3.OpGet(s.Prefix+row.Name))
	}
	// Settings are among these keys as well: room for them leaves strangers theirs.
	reads = append(reads, clientv3.OpGet(s.Prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithLimit(int64(maxStrangers+len(table)))))
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
	strangers := 0
	for _, kv := range all.Kvs {
		if name := s.name(kv.Key); strangers < maxStrangers && !slices.Contains(Names(), name) {
			listing.Entries = append(listing.Entries, Entry{Name: name, Revision: kv.ModRevision})
			strangers++
		}
	}
	listing.More = int(all.Count) > len(listing.Entries) // Count is of all, whatever the limit
	slices.SortFunc(listing.Entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return listing, nil
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
