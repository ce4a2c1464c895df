package sandbox

import (
	"os"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

// Two processes choose the same subnet: the second one takes another.
func TestHostsTakeAnotherSubnet(t *testing.T) {
	tier.OnlyTestAll(t, "network namespaces")
	if os.Geteuid() != 0 {
		t.Log("only root can create network namespaces")
		return
	}
	first, err := startHosts(t.Context(), freeNet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.stop)
	choices := []int{first.net, first.net}
	second, err := startHosts(t.Context(), func() (int, error) {
		if len(choices) == 0 {
			return freeNet()
		}
		n := choices[0]
		choices = choices[1:]
		return n, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.stop)
	if len(choices) > 0 || second.net == first.net {
		t.Errorf("both networks have subnet %d", first.net)
	}
	if third, err := startHosts(t.Context(), func() (int, error) { return first.net, nil }); err == nil {
		third.stop()
		t.Error("a network started on a subnet in use")
	}
}
