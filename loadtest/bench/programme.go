package bench

import (
	"fmt"
	"slices"

	"flashsale/loadtest/peer"
)

const (
	hotLoad = "hot"
	// StandardReplicas is the number of replicas, unless runs compare such numbers.
	StandardReplicas = 2
	// fewReplicas and manyReplicas are for that comparison.
	fewReplicas, manyReplicas = 1, 4
)

// Programme is the runs of one round.
type Programme struct {
	Sections []Section
	// Rate of open loops. 0 is the standard rate.
	Rate int
}

// Section is a setting and the peers that run in it.
type Section struct {
	Setting
	Peers []peer.Peer
}

type step struct {
	Setting
	peer peer.Peer
}

// String names the setting: "hot, 2 replicas, binlog".
func (s Setting) String() string {
	text := fmt.Sprintf("%s, %d replicas", s.Load, s.Replicas)
	if s.Replicas == 1 {
		text = s.Load + ", 1 replica"
	}
	if s.Binlog {
		text += ", binlog"
	}
	if s.Open {
		text += ", open"
	}
	return text
}

// Standard takes 15 minutes: all peers on the hot SKU, a few in the other settings.
func Standard() Programme {
	few := some("noop", "redis-lua", "conditional", peer.Batched, "etcd")
	p := Programme{Sections: []Section{{Setting{Load: hotLoad, Replicas: StandardReplicas}, peer.All()}}}
	for _, load := range LoadNames[1:] {
		p.Sections = append(p.Sections, Section{Setting{Load: load, Replicas: StandardReplicas}, few})
	}
	for _, replicas := range []int{fewReplicas, manyReplicas} {
		p.Sections = append(p.Sections, Section{Setting{Load: hotLoad, Replicas: replicas}, some("noop", "etcd")})
	}
	p.Sections = append(p.Sections,
		Section{Setting{Load: hotLoad, Replicas: StandardReplicas, Open: true}, few},
		Section{Setting{Load: hotLoad, Replicas: StandardReplicas, Binlog: true}, some("conditional", "conditional-1trip", peer.Batched, "etcd")})
	return p
}

// Full runs every peer under every load and every setting, which takes hours.
func Full() Programme {
	var p Programme
	for _, load := range LoadNames {
		for _, replicas := range []int{StandardReplicas, fewReplicas, manyReplicas} {
			p.Sections = append(p.Sections, Section{Setting{Load: load, Replicas: replicas}, peer.All()})
		}
	}
	logged := slices.DeleteFunc(peer.All(), func(one peer.Peer) bool { return one.Store != peer.MySQL })
	p.Sections = append(p.Sections, Section{Setting{Load: hotLoad, Replicas: StandardReplicas, Open: true}, peer.All()})
	for _, load := range LoadNames {
		p.Sections = append(p.Sections, Section{Setting{Load: load, Replicas: StandardReplicas, Binlog: true}, logged})
	}
	return p
}

func some(names ...string) []peer.Peer {
	return slices.DeleteFunc(peer.All(), func(p peer.Peer) bool { return !slices.Contains(names, p.Name) })
}

// Keep removes all other peers, and the sections without a peer.
func (p Programme) Keep(peers []peer.Peer) Programme {
	result := Programme{Rate: p.Rate}
	for _, s := range p.Sections {
		s.Peers = slices.DeleteFunc(slices.Clone(s.Peers), func(one peer.Peer) bool {
			return !slices.ContainsFunc(peers, func(other peer.Peer) bool { return other.Name == one.Name })
		})
		if len(s.Peers) > 0 {
			result.Sections = append(result.Sections, s)
		}
	}
	return result
}

func (p Programme) steps() []step {
	var list []step
	for _, s := range p.Sections {
		for _, one := range s.Peers {
			list = append(list, step{s.Setting, one})
		}
	}
	return list
}

// peers are all that run, in the registry's order.
func (p Programme) peers() []peer.Peer {
	steps := p.steps()
	return slices.DeleteFunc(peer.All(), func(one peer.Peer) bool {
		return !slices.ContainsFunc(steps, func(s step) bool { return s.peer.Name == one.Name })
	})
}
