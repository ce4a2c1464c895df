package lesson

import (
	"fmt"
	"slices"
	"strings"
)

// all are the lessons in the order of docs/lessons, in which a class takes them.
var all = []*Lesson{
	&noLock,
	&unlockBeforeCommit,
	&snapshotBeforeLock,
	&forUpdateThenPlainRead,
	&readUncommitted,
	&oneProcessLock,
	&getLockThroughAPool,
	&locksOfEachNode,
	&oneSessionTwoGoroutines,
	&redisDelWithoutOwner,
	&memcachedGetThenDelete,
	&crashedLockTableOwner,
	&clockSkew,
	&leaseInTheAPIServer,
	&zooKeeperOnKubernetes,
	&renewalIgnored,
	&pausedHolder,
	&lockRowLostAtFailover,
	&redlockNodeRestartedEmpty,
	&memcachedEviction,
	&thunderingHerd,
	&mirrorWithoutCompare,
}

// All returns the registry in its order.
func All() []*Lesson { return slices.Clone(all) }

// Names returns the lessons' names in their order.
func Names() []string {
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = l.Name
	}
	return names
}

// Find returns the lesson of that name.
func Find(name string) (*Lesson, error) {
	i := slices.IndexFunc(all, func(l *Lesson) bool { return l.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("unknown lesson %q: must be one of %s", name, strings.Join(Names(), ", "))
	}
	return all[i], nil
}
