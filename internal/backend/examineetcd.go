package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/doctor"
)

const (
	// examineTimeout bounds the question to one member: the others are still asked.
	examineTimeout = 2 * time.Second
	// etcdDefaultQuota is etcd's own, which members before 3.6 do not tell.
	etcdDefaultQuota = 2 << 30
	// etcdNearlyFull is the part of the quota from which on it is to be seen to. The
	// alert FlashsaleEtcdNearlyFull has it as well.
	etcdNearlyFull = 0.8
	// etcdFragments is the free part of a database file that is worth giving back,
	// and etcdSmall the size up to which nobody cares.
	etcdFragments, etcdSmall = 0.5, 64 << 20
	// etcdUncompacted is how many revisions may be kept before somebody should ask
	// whether old ones are ever thrown away.
	etcdUncompacted = 200_000
)

// leastEtcd is the first with leases that survive a change of the leader with the
// time that they have left, with watches that ask for progress, and with learners.
var leastEtcd = doctor.Version{Major: 3, Minor: 4}

// Usage is how full an etcd cluster is: of its members that answered, what the
// fullest says.
type Usage struct {
	Size, InUse, Quota int64 // bytes of the database file, of what is in it, and the most
	// Alarms are those that are raised: NOSPACE refuses all writes.
	Alarms []string

	answered int
	statuses []memberStatus
}

type memberStatus struct {
	endpoint string
	*clientv3.StatusResponse
	err error
}

// ReadUsage asks every endpoint of the client. The error says that none answered, or
// that the alarms could not be read.
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
	if err != nil {
		e.Warn("alarms", "let the account read them", "cannot be read: %v", err)
	} else {
		e.etcdAlarms(usage)
	}
	e.etcdSize(usage)
	e.etcdWrites(ctx, client)
	e.etcdCompacts(ctx, client)
	return nil
}

// etcdMembers looks at each endpoint, as the client may use any of them.
func (e *examination) etcdMembers(usage Usage) {
	var silent []string
	for _, s := range usage.statuses {
		if s.err != nil {
			silent = append(silent, joined([]string{s.endpoint}))
			continue
		}
		e.checkVersion(joined([]string{s.endpoint}), s.Version, leastEtcd)
		if s.IsLearner {
			e.Warn("members", "take it out of --etcd-endpoints until it is promoted", "%s is a learner, which serves no reads that count", joined([]string{s.endpoint}))
		}
	}
	if len(silent) > 0 {
		e.Warn("members", "start them, or mend --etcd-endpoints: a cluster goes on while more than half of its members run",
			"%d of %d endpoints answer; these do not: %s", usage.answered, len(usage.statuses), strings.Join(silent, ", "))
	} else {
		e.Fine("members", "%d of %d endpoints answer", usage.answered, len(usage.statuses))
	}
}

func (e *examination) etcdAlarms(usage Usage) {
	for _, alarm := range usage.Alarms {
		todo := "see etcd's guide on recovery: a member's data are not those of the others"
		if alarm == etcdserverpb.AlarmType_NOSPACE.String() {
			todo = "compact, defragment and disarm: docs/operations.md, \"etcd's upkeep\""
		}
		e.Fault("alarms", todo, "%s is raised: etcd refuses writes", alarm)
	}
	if len(usage.Alarms) == 0 {
		e.Fine("alarms", "none")
	}
}

func (e *examination) etcdSize(usage Usage) {
	size, inUse, quota := humanize.IBytes(uint64(usage.Size)), humanize.IBytes(uint64(usage.InUse)), humanize.IBytes(uint64(usage.Quota))
	if float64(usage.Size) > etcdNearlyFull*float64(usage.Quota) {
		e.Warn("size", "compact and defragment it, or raise --quota-backend-bytes: docs/operations.md, \"etcd's upkeep\"",
			"%s of a quota of %s (%s in use): beyond it etcd refuses writes", size, quota, inUse)
	} else {
		e.Fine("size", "%s of a quota of %s", size, quota)
	}
	if usage.Size > etcdSmall && float64(usage.Size-usage.InUse) > etcdFragments*float64(usage.Size) {
		e.Warn("fragmentation", "defragment one member after the other: etcdctl defrag", "%s in use of a file of %s", inUse, size)
	} else {
		e.Fine("fragmentation", "%s in use of a file of %s", inUse, size)
	}
}

// etcdWrites tries a write that is never done: no key has that revision. The quota,
// the quorum and the account's rights are checked all the same.
func (e *examination) etcdWrites(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(e.key), "=", -1)).Then(clientv3.OpPut(e.key, "")).Commit()
	if err == nil {
		e.Fine("writes", "it takes them, for keys under %s", e.servers.Prefix)
		return
	}
	advice, _ := Refusal(err)
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		e.Fault("writes", "compact, defragment and disarm: docs/operations.md, \"etcd's upkeep\"", "refused: %v", err)
	case advice != "":
		e.Fault("writes", advice, "refused: %v", err)
	default:
		e.Fault(doctor.Answers, "bring back so many members that more than half run, and look at their logs", "it takes no writes: %v", err)
	}
}

// etcdCompacts finds a cluster that keeps every revision it ever had: it fills up.
func (e *examination) etcdCompacts(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	now, err := client.Get(ctx, e.key, clientv3.WithCountOnly())
	if err != nil {
		return // etcdWrites has said why
	}
	oldest := max(1, now.Header.Revision-etcdUncompacted)
	_, err = client.Get(ctx, e.key, clientv3.WithCountOnly(), clientv3.WithRev(oldest))
	if err == nil && oldest > 1 {
		e.Warn("compaction", "start its members with --auto-compaction-mode=periodic --auto-compaction-retention=10m",
			"more than %d old revisions are kept: it fills up by and by", etcdUncompacted)
	} else {
		e.Fine("compaction", "at revision %d", now.Header.Revision)
	}
}
