package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/doctor"
)

const (
	// etcdDefaultQuota is etcd's default. Members before 3.6 do not report theirs.
	etcdDefaultQuota = 2 << 30
	// etcdNearlyFull is the part of the quota that needs action. The alert
	// FlashsaleEtcdNearlyFull has the same value.
	etcdNearlyFull = 0.8
	// etcdFragmented is the unused part of a database file that needs action, if the
	// file is larger than etcdSmall.
	etcdFragmented, etcdSmall = 0.5, 64 << 20
	// etcdUncompacted is a number of old revisions that shows that no compaction is
	// configured.
	etcdUncompacted = 200_000

	etcdUpkeep       = `docs/operations.md, "etcd's upkeep"`
	etcdFreeSpace    = "compact, defragment and disarm: " + etcdUpkeep
	etcdStartMembers = "start more members, so that more than half run, and read their logs"
)

// minEtcd is the first version with learners, watch progress requests, and leases that
// keep their remaining time when the leader changes.
var minEtcd = doctor.Version{Major: 3, Minor: 4}

// Usage is how full an etcd cluster is.
type Usage struct {
	// Size is the size of the database file in bytes, InUse the part of it with data,
	// and Quota the largest size. They are those of the fullest member that answered.
	Size, InUse, Quota int64
	// Alarms are the active alarms. NOSPACE refuses all writes.
	Alarms []string

	answered int
	statuses []memberStatus
}

type memberStatus struct {
	endpoint string
	*clientv3.StatusResponse
	err error
}

// ReadUsage asks all endpoints of the client. It returns an error if none answers, or if
// the alarms cannot be read.
func ReadUsage(ctx context.Context, client *clientv3.Client) (u Usage, err error) {
	u.statuses = make([]memberStatus, len(client.Endpoints()))
	var all sync.WaitGroup
	for i, endpoint := range client.Endpoints() {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, examineTimeout)
			defer cancel()
			answer, err := client.Status(ctx, endpoint)
			u.statuses[i] = memberStatus{endpoint, answer, err}
		})
	}
	all.Wait()
	var errs []error
	for _, s := range u.statuses {
		if s.err != nil {
			errs = append(errs, s.err)
			continue
		}
		u.answered++
		quota := s.DbSizeQuota
		if quota == 0 {
			quota = etcdDefaultQuota
		}
		if u.Quota == 0 || float64(s.DbSize)/float64(quota) > float64(u.Size)/float64(u.Quota) {
			u.Size, u.InUse, u.Quota = s.DbSize, s.DbSizeInUse, quota
		}
	}
	if u.answered == 0 {
		return u, errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return u, fmt.Errorf("read alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if name := a.Alarm.String(); !slices.Contains(u.Alarms, name) {
			u.Alarms = append(u.Alarms, name)
		}
	}
	return u, nil
}

func examineEtcd(ctx context.Context, e *examination) error {
	client, err := e.servers.etcdClient(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	usage, err := ReadUsage(ctx, client)
	if usage.answered == 0 {
		return err
	}
	e.etcdMembers(usage)
	switch {
	case err != nil:
		e.Warn("alarms", "let the account read them", "cannot be read: %v", err)
	case len(usage.Alarms) == 0:
		e.Fine("alarms", "none")
	}
	for _, alarm := range usage.Alarms {
		todo := "follow etcd's disaster recovery guide: the data of a member differ from the others'"
		if alarm == etcdserverpb.AlarmType_NOSPACE.String() {
			todo = etcdFreeSpace
		}
		e.Fault("alarms", todo, "%s is active: etcd refuses writes", alarm)
	}
	e.etcdSize(usage)
	e.etcdWrites(ctx, client)
	e.etcdCompacts(ctx, client)
	return nil
}

// etcdMembers examines each endpoint, because the client may use any of them.
func (e *examination) etcdMembers(usage Usage) {
	var silent []string
	for _, s := range usage.statuses {
		if s.err != nil {
			silent = append(silent, redacted(s.endpoint))
			continue
		}
		e.CheckVersion("version "+redacted(s.endpoint), s.Version, minEtcd)
		if s.IsLearner {
			e.Warn("members", "remove it from --etcd-endpoints until it is promoted", "%s is a learner, which serves no linearizable reads", redacted(s.endpoint))
		}
	}
	if len(silent) > 0 {
		e.Warn("members", "start them, or correct --etcd-endpoints: a cluster works while more than half of its members run",
			"%d of %d endpoints answer; these do not: %s", usage.answered, len(usage.statuses), strings.Join(silent, ", "))
	} else {
		e.Fine("members", "%d of %d endpoints answer", usage.answered, len(usage.statuses))
	}
}

func (e *examination) etcdSize(usage Usage) {
	size, inUse, quota := mebibytes(usage.Size), mebibytes(usage.InUse), mebibytes(usage.Quota)
	if float64(usage.Size) > etcdNearlyFull*float64(usage.Quota) {
		e.Warn("size", "compact and defragment it, or raise --quota-backend-bytes: "+etcdUpkeep,
			"%s of a quota of %s (%s in use): a full etcd refuses writes", size, quota, inUse)
	} else {
		e.Fine("size", "%s of a quota of %s", size, quota)
	}
	if usage.Size > etcdSmall && float64(usage.Size-usage.InUse) > etcdFragmented*float64(usage.Size) {
		e.Warn("fragmentation", "defragment one member after the other: etcdctl defrag", "%s in use of a file of %s", inUse, size)
	} else {
		e.Fine("fragmentation", "%s in use of a file of %s", inUse, size)
	}
}

func (e *examination) etcdWrites(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	err := tryEtcdWrite(ctx, client, e.key)
	if err == nil {
		e.Fine("writes", "accepted for keys under %s", e.servers.Prefix)
		return
	}
	advice, _ := Refusal(err)
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		e.Fault("writes", etcdFreeSpace, "refused: %v", err)
	case advice != "":
		e.Fault("writes", advice, "refused: %v", err)
	default:
		e.Fault(doctor.Answers, etcdStartMembers, "it does not accept writes: %v", err)
	}
}

// etcdCompacts finds a cluster that never removes old revisions and thus fills up.
func (e *examination) etcdCompacts(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	now, err := client.Get(ctx, e.key, clientv3.WithCountOnly())
	if err != nil {
		return // etcdWrites has reported why
	}
	oldest := max(1, now.Header.Revision-etcdUncompacted)
	_, err = client.Get(ctx, e.key, clientv3.WithCountOnly(), clientv3.WithRev(oldest))
	if err == nil && oldest > 1 {
		e.Warn("compaction", "start its members with --auto-compaction-mode=periodic --auto-compaction-retention=10m",
			"it keeps more than %d old revisions and will fill up", etcdUncompacted)
	} else {
		e.Fine("compaction", "at revision %d", now.Header.Revision)
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
