package bench

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"flashsale/internal/look"
	"flashsale/loadtest/peer"
)

func TestPageShowsEachPeerInItsOwnColour(t *testing.T) {
	hot := Setting{Load: "hot", Replicas: 2}
	r := &Result{Seed: 5, Runs: []Run{run("noop", hot, 1, 4000), run("etcd", hot, 1, 3000), run("noop", hot, 2, 4200), run("etcd", hot, 2, 3100)}}
	r.settle()
	var page bytes.Buffer
	if err := Page(&page, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a second: hot, 2 replicas</h2>", `aria-label="etcd: 3,050/s" data-strategy="etcd"`, `<a download="bench.json">`, `"served_per_second":3100`, "Seed 5.",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	for _, p := range peer.All() {
		if !strings.Contains(look.Charts(), fmt.Sprintf("%q", p.Name)) {
			t.Errorf("charts.js has no hue for %s", p.Name)
		}
	}
}
