package lease

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/lock"
)

// newOwner returns a unique name for one request of a grant: who asks, and a UUID
// of version 7, which contains the time.
func newOwner(who string) string { return who + "/" + uuid.Must(uuid.NewV7()).String() }

// ParseOwner reads the Holder, Replica and Since of a grant from the name of its
// owner on the server. A name in another format becomes the Holder unchanged.
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
