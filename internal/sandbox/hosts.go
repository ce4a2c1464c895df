package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"flashsale/internal/sleep"
)

// hosts are network namespaces for servers, connected by one switch to each other and
// to this machine. The switch has a namespace, too. A namespace exists while its
// holder runs, so nothing is left behind.
type hosts struct {
	net     int        // the subnet, from 198.18.0.0/15, which is reserved for benchmarks
	holders []*Process // holders[0] is the switch's
}

// holds is what a holder prints once it has its namespace.
const holds = "holds"

func startHosts(ctx context.Context, n int) (_ *hosts, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can create the network namespaces that servers are cut off by")
	}
	h := &hosts{}
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	if h.net, err = freeNet(); err != nil {
		return nil, err
	}
	for range n + 1 {
		holder, err := StartProcess(ctx, ProcessConfig{Name: "unshare", Argv: []string{"unshare", "--net", "sh", "-c", "echo " + holds + "; exec sleep infinity"}})
		if err != nil {
			return nil, err
		}
		h.holders = append(h.holders, holder)
	}
	for _, holder := range h.holders {
		for holder.LogTail(1) != holds {
			if err := sleep.For(ctx, readyPause); err != nil {
				return nil, err
			}
		}
	}
	// An interface's name has at most 15 letters.
	ours := fmt.Sprintf("fs%d", h.net)
	script := []string{
		"ip link add " + ours + " type veth peer name uplink netns " + strconv.Itoa(h.holders[0].Pid()),
		"ip address add " + h.prefix() + "254/24 dev " + ours, "ip link set " + ours + " up",
		h.at(0, "ip link add switch type bridge"), h.at(0, "ip link set switch up"), h.at(0, "ip link set uplink master switch up"),
	}
	for i := range n {
		port := fmt.Sprintf("port%d", i)
		script = append(script,
			h.at(0, "ip link add "+port+" type veth peer name eth0 netns "+strconv.Itoa(h.holders[i+1].Pid())),
			h.at(0, "ip link set "+port+" master switch up"),
			h.at(i+1, "ip address add "+h.ip(i)+"/24 dev eth0"), h.at(i+1, "ip link set eth0 up"), h.at(i+1, "ip link set lo up"))
	}
	return h, shell(ctx, strings.Join(script, "\n"))
}

// freeNet returns the number of a subnet that this machine does not use.
func freeNet() (int, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return 0, err
	}
	for {
		n := rand.IntN(512)
		if !slices.ContainsFunc(taken, func(a net.Addr) bool { return strings.HasPrefix(a.String(), (&hosts{net: n}).prefix()) }) {
			return n, nil
		}
	}
}

func (h *hosts) prefix() string     { return fmt.Sprintf("198.%d.%d.", 18+h.net/256, h.net%256) }
func (h *hosts) subnet() string     { return h.prefix() + "0/24" }
func (h *hosts) ip(host int) string { return h.prefix() + strconv.Itoa(host+1) }

// enter is the prefix of a command that runs on the host.
func (h *hosts) enter(host int) []string {
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", h.holders[host+1].Pid())}
}

// at makes a shell command run in a holder's namespace.
func (h *hosts) at(holder int, command string) string {
	return strings.Join(h.enter(holder-1), " ") + " " + command
}

// run runs a command on the host.
func (h *hosts) run(ctx context.Context, host int, command string) error {
	return shell(ctx, h.at(host+1, command))
}

func (h *hosts) stop() {
	for _, holder := range h.holders {
		holder.Kill()
	}
}

func shell(ctx context.Context, script string) error {
	return runToItsEnd(ctx, "set up the servers' networks", []string{"sh", "-ec", script}, filepath.Clean(os.TempDir()))
}
