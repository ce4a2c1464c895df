package steps

import (
	"slices"

	"flashsale/internal/record"
)

// Interleaving returns the steps of the first two orders that sold the same unit of a SKU,
// with those of the locks that they were written under: for example A read 1, B read 1, A
// wrote 0, A committed, B wrote 0, B committed. It returns nil if no unit was sold twice.
// all must be in the order of time.
//
// Each write makes a version of the row. Two orders in one version are either a batch,
// which sells different units, or a lost update: both were computed from the version
// before. No oversell is without such a pair, because each sale needs a unit in its version.
//
// The first is the one of the lowest version, whenever its commits were recorded. A stale write
// brings an old version back, from which later orders sell units again, one after the other: their
// versions are higher.
func Interleaving(all []record.Step, sku string) []record.Step {
	var pair []record.Step
	versions := map[uint64][]record.Step{}
	for _, s := range all {
		if s.SKU != sku || s.Kind != record.Committed || s.Before == nil || s.After == nil {
			continue
		}
		for _, earlier := range versions[s.Seq] {
			if earlier.Order != s.Order && *earlier.After < *s.Before && *s.After < *earlier.Before && (pair == nil || s.Seq < pair[0].Seq) {
				pair = []record.Step{earlier, s}
			}
		}
		versions[s.Seq] = append(versions[s.Seq], s)
	}
	if pair == nil {
		return nil
	}
	return readsFirst(story(all, pair[0], pair[1]), pair[0].Seq)
}

// LastUnit returns the same moment of a sale that sold no unit twice: the steps of the
// order that took the last unit, and of one that was refused. It prefers one that reached
// another replica before that commit. It returns nil if no order was refused.
func LastUnit(all []record.Step, sku string) []record.Step {
	taken := -1
	for i, s := range all {
		if s.SKU == sku && s.Kind == record.Committed && s.After != nil && (taken < 0 || *s.After <= *all[taken].After) {
			taken = i
		}
	}
	if taken < 0 {
		return nil
	}
	arrived := map[buyer]string{} // before the commit, at which replica
	for _, s := range all[:taken] {
		if s.SKU == sku && s.Kind == record.Arrived {
			arrived[of(&s)] = s.Replica
		}
	}
	// Others may see the write, or its effect in etcd, before its commit is recorded, or
	// even before the write is: its answer took its time.
	left := *all[taken].After
	wrote := slices.IndexFunc(all, func(s record.Step) bool {
		return s.Order == all[taken].Order && s.After != nil || s.SKU == sku && s.Kind == record.Read && s.Before != nil && *s.Before <= left
	})
	var refused *record.Step
	best := -1
	for _, s := range all[wrote:] {
		if s.SKU != sku || s.Kind != record.Refused {
			continue
		}
		rank := 0
		switch at, before := arrived[of(&s)]; {
		case before && at != arrived[of(&all[taken])]:
			rank = 2
		case before:
			rank = 1
		}
		if rank > best {
			refused, best = &s, rank
		}
	}
	if refused == nil {
		return nil
	}
	return story(all, all[taken], *refused)
}

// buyer identifies an order over all replicas and attempts.
type buyer struct{ customer, key string }

func of(s *record.Step) buyer { return buyer{s.Customer, s.Key} }

// story returns the steps of two orders, and of the desks' locks with their tokens, until
// the last answer to one of the two.
func story(all []record.Step, a, b record.Step) []record.Step {
	var some []record.Step
	end := 0
	for _, s := range all {
		order := s.Key != "" && (of(&s) == of(&a) || of(&s) == of(&b))
		lock := s.Key == "" && s.Token != 0 && (s.Token == a.Token || s.Token == b.Token)
		if s.SKU != a.SKU || !order && !lock {
			continue
		}
		if some = append(some, s); order {
			end = len(some)
		}
	}
	return some[:end]
}

// readsFirst puts reads of the version before seq before the first commit of seq. They
// did not see that commit, so they were recorded late: the answer took its time.
func readsFirst(some []record.Step, seq uint64) []record.Step {
	commit := slices.IndexFunc(some, func(s record.Step) bool { return s.Kind == record.Committed && s.Seq == seq })
	for i := commit + 1; i < len(some); i++ {
		if s := some[i]; s.Kind == record.Read && s.Seq == seq-1 {
			some = slices.Insert(slices.Delete(some, i, i+1), commit, s)
			commit++
		}
	}
	return some
}
