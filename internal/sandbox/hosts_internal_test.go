package sandbox

import (
	"os"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

// Two processes choose the same subnet: the second one takes another.
func TestHostsTakeAnotherSubnet(t *testing.T) {
	tier.OnlyTestAll(t, "network namespaces")
	if os.Geteuid() != 0 {
		t.Log("only root can create network namespaces")
		return
	}
	if err := checkNamespaces(t.Context()); err != nil && strings.HasPrefix(err.Error(), "try network namespaces: ") {
		tier.LeaveOut(t, "the right to create namespaces: "+strings.Join(strings.Fields(err.Error()), " "))
	}
	first, err := startHosts(t.Context(), freeNet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.stop)
	stack := &Stack{folder: &folder{}, Network: &Network{hosts: first}}
	if left := stack.Left(); len(left) != 2 || left[0] != "interface "+first.ours() || !strings.Contains(left[1], "holder of a net namespace") {
		t.Errorf("while the network exists: %v is left", left)
	}
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
	first.stop()
	for deadline := time.Now().Add(10 * time.Second); stack.Left() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("stop has left %v", stack.Left())
		}
	}
}
