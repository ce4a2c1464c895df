package model

import (
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

// The properties of takeover.pml, each by a part of its assertion.
const (
	oneOrder      = "(orders&(orders>>2))==0"
	isOrdered     = "violated ((orders|"
	noReplayLost  = "!(stood)"
	wasSoldOut    = "unitsLeft&"
	toldHasNone   = "gaveUp||"
	toldGetsNone  = "told&"
	tokensNotFall = "newestWriter"
	oneWriter     = "newestReader"
)

// Every step of the model is taken in some run, so that no property holds for want of
// runs that could break it.
func TestTakeOverHolds(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	for name, macros := range map[string]string{
		"two tenures":                                   "",
		"two tenures, two units":                        "-DUNITS=2",
		"three tenures, one call":                       "-DTENURES=3 -DCALLS=1",
		"three tenures, no unknown commit":              "-DTENURES=3 -DUNKNOWN=0",
		"three tenures, no cancellation":                "-DTENURES=3 -DCANCELS=0",
		"a refusal that compares seq alone":             "-DCHECK_SEQ",
		"one writer left out, claim after the read":     "-DNO_EXCLUSIVE -DCLAIM_AFTER",
		"one writer left out, no comparison of a fence": "-DNO_EXCLUSIVE -DSEQ_ONLY",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := search{file: "takeover.pml", macros: strings.Fields(macros)}.holds(t)
			if macros == "" && len(r.unreached) > 0 {
				t.Errorf("no run reaches\n%s", strings.Join(r.unreached, "\n"))
			}
		})
	}
}

func TestTakeOverEnds(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	t.Parallel()
	search{file: "takeover.pml", endless: true}.holds(t)
}

// Each mutant lacks one rule. One that breaks nothing would show that its rule, or the
// property that it should break, is empty.
func TestTakeOverNeedsEachRule(t *testing.T) {
	tier.OnlyTestAll(t, "Spin and gcc")
	for mutant, want := range map[string]string{
		"-DNO_CLAIM":                  oneWriter,
		"-DNO_CLAIM -DNO_EXCLUSIVE":   tokensNotFall,
		"-DCLAIM_AFTER":               oneWriter,
		"-DWRITE_ONLY":                oneWriter,
		"-DWRITE_ONLY -DNO_EXCLUSIVE": toldGetsNone,
		"-DNO_SEQ":                    toldHasNone,
		"-DNO_SETTLE":                 toldHasNone,
		"-DNO_CHECK":                  wasSoldOut,
		"-DNEW_KEY":                   oneOrder,
		"-DEARLY_ANSWER":              isOrdered,
		"-DKEYS_EARLY":                noReplayLost,
		"-DCARRY":                     toldGetsNone,
		"-DRESEND_OLDER":              toldGetsNone,
		"-DOLD_LINK":                  toldGetsNone,
		"-DOLD_ANSWERS":               toldGetsNone,
		"-DTENURES=3 -DNO_CLAIM":      oneWriter,
		"-DTENURES=3 -DCLAIM_AFTER":   oneWriter,
		"-DTENURES=3 -DWRITE_ONLY":    oneWriter,
	} {
		t.Run(mutant, func(t *testing.T) {
			t.Parallel()
			search{file: "takeover.pml", macros: strings.Fields(mutant)}.breaks(t, want)
		})
	}
}
