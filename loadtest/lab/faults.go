package lab

import (
	"context"
	"errors"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/internal/strategy"
)

// fault is something that fails in the middle of a run, and is mended before its end.
type fault struct {
	name, title, shows string
	// lasts is the time from the fault until it is ended.
	lasts time.Duration
	// replicas is the least number of replicas.
	replicas  int
	etcdNodes int
	network   bool
	// stale says that a holder may write after its lease has ended.
	stale bool
	// unfitFor says why a strategy cannot have the fault, or returns "".
	unfitFor func(strategy.Strategy) string
	// inject makes the fault, and says what it did. heal ends it.
	inject func(context.Context, *side) (Happened, error)
	heal   func(context.Context, *side) error
}

const (
	noFault = "none"
	// faultTTL is the locks' TTL in runs with a fault: the smallest that etcd grants.
	faultTTL = 2 * time.Second
	// pastTTL is longer than a lease lasts, and shorter than faultTimeout.
	pastTTL = 2*faultTTL + time.Second
	// faultTimeout is the replicas' time for an order in runs with a fault: a holder that
	// was paused has to write before its own time is over. The buyers wait a second longer.
	faultTimeout = 7 * time.Second
	// around is the time for orders before the fault and after it.
	around = 4 * time.Second
)

const theSeller = "The seller is the replica that holds the SKU's lock at this moment; without a lock, replica-1."

// faults are all of them. The first one is none.
var faults = []fault{
	{name: noFault, title: "No fault", shows: "Nothing fails."},
	{
		name: "pause-seller", title: "Pause the seller past its TTL", replicas: 2, lasts: pastTTL, stale: true,
		shows:  "The seller is stopped (SIGSTOP) for 5 s, and goes on; a lock's TTL is 2 s, so its lock has ended by then. " + theSeller,
		inject: pauseSeller,
		heal:   func(_ context.Context, s *side) error { return s.victim.Signal(sandbox.SIGCONT) },
	},
	{
		name: "kill-seller", title: "Kill the seller", replicas: 2, lasts: 2 * time.Second,
		shows: "The seller is killed, and started again after 2 s. " + theSeller,
		inject: func(ctx context.Context, s *side) (Happened, error) {
			i, err := s.seller(ctx)
			if err != nil {
				return Happened{}, err
			}
			s.strike(killed, i)
			s.victim.Kill()
			return Happened{Replica: s.victim.Name, Text: s.victim.Name + " is killed"}, nil
		},
		heal: func(ctx context.Context, s *side) error { return s.victim.Restart(ctx) },
	},
	{
		name: "kill-etcd-leader", title: "Kill etcd's leader", lasts: 4 * time.Second, etcdNodes: 3, unfitFor: needsEtcd,
		shows: "etcd has three nodes. The leader is killed, and started again after 4 s. Meanwhile the other two elect a new leader.",
		inject: func(ctx context.Context, s *side) (Happened, error) {
			leader, err := s.stack.EtcdLeader(ctx)
			if err != nil {
				return Happened{}, err
			}
			node := s.stack.Etcd[leader]
			node.Kill()
			return Happened{Replica: node.Name, Text: "etcd's leader, " + node.Name + ", is killed"}, nil
		},
		heal: func(ctx context.Context, s *side) error { return s.stack.RestartEtcd(ctx) },
	},
	{
		name: "cut-etcd", title: "Cut the seller off from etcd", replicas: 2, lasts: pastTTL, network: true, stale: true, unfitFor: needsEtcd,
		shows: "All packets between the seller and etcd are lost for 5 s; a lock's TTL is 2 s. " + theSeller,
		inject: func(ctx context.Context, s *side) (Happened, error) {
			i, err := s.seller(ctx)
			if err != nil {
				return Happened{}, err
			}
			s.strike(cutOff, i)
			return Happened{Replica: s.victim.Name, To: "etcd", Text: s.victim.Name + " is cut off from etcd"}, s.stack.Network.CutOff(ctx, s.victim.Name, s.stack.EtcdNames()...)
		},
		heal: healNetwork,
	},
	{
		name: "cut-replicas", title: "Cut two replicas off from each other", replicas: 2, lasts: pastTTL, network: true,
		unfitFor: func(row strategy.Strategy) string {
			if row.Write != strategy.Batch {
				return "under " + row.Name + ", replicas send nothing to each other; choose etcd"
			}
			return ""
		},
		shows: "All packets between the seller and another replica are lost for 5 s: orders cannot be forwarded between the two. " + theSeller,
		inject: func(ctx context.Context, s *side) (Happened, error) {
			i, err := s.seller(ctx)
			if err != nil {
				return Happened{}, err
			}
			j := (i + 1) % len(s.fleet.Replicas)
			s.strike(cutOff, i, j)
			other := s.fleet.Replicas[j].Name
			return Happened{Replica: s.victim.Name, To: other, Text: s.victim.Name + " and " + other + " are cut off from each other"}, s.stack.Network.CutBoth(ctx, s.victim.Name, other)
		},
		heal: healNetwork,
	},
}

func (f *fault) unfit(row strategy.Strategy) string {
	if f.unfitFor == nil {
		return ""
	}
	return f.unfitFor(row)
}

// least is how long orders have to come, so that the fault is in their middle.
func (f *fault) least() time.Duration {
	if f.name == noFault {
		return 0
	}
	return f.lasts + around
}

func needsEtcd(row strategy.Strategy) string {
	if row.Server != strategy.InEtcd {
		return row.Name + " does not use etcd; choose etcd, etcd-textbook, etcd-try or etcd-cas"
	}
	return ""
}

func healNetwork(ctx context.Context, s *side) error { return s.stack.Network.Heal(ctx) }

const (
	// holderWait bounds the wait for a moment at which a replica holds the lock.
	holderWait = time.Second
	// glance is the pause between two looks at the records.
	glance = 2 * time.Millisecond
)

// pauseSeller pauses a replica. If locks are taken for each order, it pauses one that
// holds the lock: a replica that has released the lock before the pause is resumed, and
// the next holder is paused instead.
func pauseSeller(ctx context.Context, s *side) (Happened, error) {
	for deadline := time.Now().Add(holderWait); ; {
		i, err := s.seller(ctx)
		if err != nil {
			return Happened{}, err
		}
		s.strike(paused, i)
		if err := errors.Join(s.victim.Pause(ctx), s.read()); err != nil {
			return Happened{}, err
		}
		if s.row.Lock == strategy.NoLock || s.holder() == i || time.Now().After(deadline) {
			return Happened{Replica: s.victim.Name, Text: s.victim.Name + " is paused"}, nil
		}
		if err := s.victim.Signal(sandbox.SIGCONT); err != nil {
			return Happened{}, err
		}
		s.strike("")
	}
}

// errNoFault ends a run whose fault came too late.
var errNoFault = errors.New("all orders were answered before the fault could be made: choose more buyers, or fewer orders a second")

// disturb makes the fault once a quarter of the units are sold, or of the time is over,
// and ends it.
func (s *side) disturb(ctx context.Context, loaded <-chan struct{}) error {
	if s.fault.name == noFault {
		return nil
	}
	for s.accepted.Load() < s.setting.Units/4 && time.Since(s.began) < s.setting.load()/4 {
		select {
		case <-loaded:
			return errNoFault
		default:
		}
		if err := sleep.For(ctx, glance); err != nil {
			return err
		}
	}
	h, err := s.fault.inject(ctx, s)
	if err != nil {
		return err
	}
	h.Kind = "fault"
	s.happened(h, time.Now())
	if err := sleep.For(ctx, s.fault.lasts); err != nil {
		return err
	}
	if err := s.fault.heal(ctx, s); err != nil {
		return err
	}
	s.strike("")
	h.Kind, h.Text = "healed", "The fault has ended"
	s.happened(h, time.Now())
	return nil
}
