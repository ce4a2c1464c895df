package k8slock

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flashsale/internal/lock"
)

// goneAfter leases without a renewal, Inspect lists a holder no more: its process
// has died, and nobody has wanted its lock since.
const goneAfter = 2

// looksOver compares the holder's clock with ours. That is for people to read:
// whether a lock may be taken is never judged by it.
func looksOver(renewed *metav1.MicroTime, lease time.Duration) bool {
	return renewed != nil && time.Since(renewed.Time) > goneAfter*lease
}

// replicaOf is the replica in Owner's form: its name may hold an @, a host's not.
func replicaOf(holder string) string {
	at := strings.LastIndexByte(holder, '@')
	return holder[:max(at, 0)]
}

func sorted(all []lock.Info) []lock.Info {
	slices.SortFunc(all, func(a, b lock.Info) int { return strings.Compare(a.Name, b.Name) })
	return all
}
