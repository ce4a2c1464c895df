package lease

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/lock"
)

// newOwner makes the name under which one grant is asked for: who asks, and an
// id that is never used twice. The id has the time in it (UUID version 7).
func newOwner(who string) string { return who + "/" + uuid.Must(uuid.NewV7()).String() }

// ParseOwner tells what the owner's name on a server says of a grant: its Holder,
// Replica and Since. Of another's name, all of it is the Holder.
func ParseOwner(owner string) lock.Info {
	info := lock.Info{Holder: owner}
	end := strings.LastIndexByte(owner, '/')
	if end < 0 {
		return info
	}
	id, err := uuid.Parse(owner[end+1:])
	if err != nil || id.Version() != 7 {
		return info
	}
	info.Holder = owner[:end]
	info.Since = time.Unix(id.Time().UnixTime())
	if replica, _, found := strings.Cut(info.Holder, "@"); found {
		info.Replica = replica
	}
	return info
}
