package bench

import (
	"fmt"

	"flashsale/loadtest/peer"
)

const (
	// hotLoad is that of one SKU.
	hotLoad = "hot"
	// StandardReplicas are those of all runs but the ones that compare numbers of
	// replicas.
	StandardReplicas = 2
	// fewReplicas and manyReplicas are what that comparison has.
	fewReplicas, manyReplicas = 1, 4
)

// Programme is what one round runs.
type Programme struct {
	Sections []Section
	// Rate of open loops; 0 is the standard one.
	Rate int
}

// Section is one setting, and the peers that run in it.
type Section struct {
	Setting
	Peers []peer.Peer
}

// step is one run of a round.
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

// Standard is the programme that answers the questions which are asked first, in
// a quarter of an hour: all peers on the hot SKU, and a few in all else.
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

// Full is every peer under every load on one, two and four replicas, in an open
// loop, and with a binlog where it makes a difference.
func Full() Programme {
	var p Programme
	for _, load := range LoadNames {
		for _, replicas := range []int{StandardReplicas, fewReplicas, manyReplicas} {
			p.Sections = append(p.Sections, Section{Setting{Load: load, Replicas: replicas}, peer.All()})
		}
	}
	var logged []peer.Peer
	for _, each := range peer.All() {
		if each.Store == peer.MySQL {
			logged = append(logged, each)
		}
	}
	p.Sections = append(p.Sections, Section{Setting{Load: hotLoad, Replicas: StandardReplicas, Open: true}, peer.All()})
	for _, load := range LoadNames {
		p.Sections = append(p.Sections, Section{Setting{Load: load, Replicas: StandardReplicas, Binlog: true}, logged})
	}
	return p
}

// some are peers that the registry surely has.
func some(names ...string) []peer.Peer {
	var list []peer.Peer
	for _, each := range peer.All() {
		for _, name := range names {
			if each.Name == name {
				list = append(list, each)
			}
		}
	}
	return list
}

// Keep leaves out the peers that are not named, and what no peer is left for.
func (p Programme) Keep(peers []peer.Peer) Programme {
	kept := Programme{Rate: p.Rate}
	for _, s := range p.Sections {
		var list []peer.Peer
		for _, each := range s.Peers {
			for _, want := range peers {
				if each.Name == want.Name {
					list = append(list, each)
				}
			}
		}
		if len(list) > 0 {
			kept.Sections = append(kept.Sections, Section{s.Setting, list})
		}
	}
	return kept
}

// steps are the runs of one round.
func (p Programme) steps() []step {
	var list []step
	for _, s := range p.Sections {
		for _, each := range s.Peers {
			list = append(list, step{s.Setting, each})
		}
	}
	return list
}

// peers are all that run, in the registry's order.
func (p Programme) peers() []peer.Peer {
	runs := map[string]bool{}
	for _, s := range p.steps() {
		runs[s.peer.Name] = true
	}
	list := []peer.Peer{}
	for _, each := range peer.All() {
		if runs[each.Name] {
			list = append(list, each)
		}
	}
	return list
}
